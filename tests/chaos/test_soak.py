"""The first seconds of the soak."""

from __future__ import annotations

import pytest

from tests.chaos.soak import make_site, soak


@pytest.mark.slow
@pytest.mark.needs("apptainer")
def test_hostile_and_honest_pipelines_together() -> None:
    site = make_site("local")
    try:
        assert soak(site, minutes=0.5, seed=1) == []
    finally:
        site.close()
