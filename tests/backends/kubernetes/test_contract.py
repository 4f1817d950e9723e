"""The Kubernetes backend keeps the whole contract, with and without a watch, on a current and on an old server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from tests.backends.kubernetes.harness import IMAGES, kubernetes_harness
from tests.stand_ins.kubernetes import ApiServer


class _OnKubernetes(BackendContract):
    version: ClassVar[str] = "1.37"
    watch: ClassVar[bool] = True
    server: ClassVar[ApiServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on_cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        directory = tmp_path_factory.mktemp("cluster")
        with (
            ApiServer(directory, images=IMAGES, version=cls.version, clock_scale=4) as cls.server,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("KUBECONFIG", str(cls.server.kubeconfig))
            yield

    def make_harness(self, workdir: Path) -> BackendHarness:
        harness = kubernetes_harness(self.server, workdir, watch=self.watch)
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="science"),
            replace(ordinary, account="ccat"),
            replace(ordinary, extra={"resources": {"memory": "1Gi"}}),
        ]
        return harness


class TestKubernetes(_OnKubernetes):
    pass


@pytest.mark.slow
class TestWithoutWatch(_OnKubernetes):
    watch = False


@pytest.mark.slow
class TestOldServer(_OnKubernetes):
    version = "1.20"
