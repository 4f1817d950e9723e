"""Names of images that a container service pulls by itself."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.definition.image_names import oci_image


@pytest.mark.parametrize(
    "image", [None, "", "grid.sif", "/data/grid.sif", "oras://registry/grid:1", "-flag", "a b", "/images/x"]
)
def test_refused(image: str | None) -> None:
    with pytest.raises(ValueError, match="X_MODE=native"):
        oci_image(image, "X_MODE=native")


@pytest.mark.parametrize(
    "image", ["docker://debian:12", "ghcr.io/ccat/grid@sha256:" + "0" * 64, "localhost:5000/x/y", "a@sha256:0123"]
)
def test_accepted(image: str) -> None:
    assert oci_image(image, "X_MODE=native") == image.removeprefix("docker://")
