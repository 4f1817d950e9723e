"""The Kubernetes backend keeps the whole contract, with and without a watch, on a current and on an old server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.hpc.kubernetes.calls import Calls
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.stand_ins.kubernetes import ApiServer, Image
from tests.support.waiting import wait_until


@dataclass
class KubernetesHarness(BackendHarness):
    """The service of this backend is an API server."""

    server: ApiServer | None = None

    @contextmanager
    def service_down(self) -> Iterator[None]:
        assert self.server is not None
        self.server.faults.drop(None)
        with self._cut_off():
            yield

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        assert self.server is not None
        self.server.faults.garbage(None)
        with self._cut_off():
            yield

    @contextmanager
    def _cut_off(self) -> Iterator[None]:
        assert self.server is not None
        assert isinstance(self.backend, KubernetesBackend)
        views = list(self.backend._views.values())
        try:
            self.server.faults.close_watches()
            wait_until(lambda: not any(view.is_recent for view in views), 10, "the watches to notice")
            yield
        finally:
            self.server.faults.clear()

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        """Requests, but for the watches, which are there anyway."""
        calls = 0
        ask = Calls._ask

        def counted(self: Calls, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return ask(self, *args, **kwargs)

        with mock.patch.object(Calls, "_ask", counted):
            yield lambda: calls


class _OnKubernetes(BackendContract):
    version: ClassVar[str] = "1.37"
    watch: ClassVar[bool] = True
    server: ClassVar[ApiServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on_cluster(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        directory = tmp_path_factory.mktemp("cluster")
        with (
            ApiServer(directory, images={"launcher:1": Image()}, version=cls.version, clock_scale=4) as cls.server,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("KUBECONFIG", str(cls.server.kubeconfig))
            yield

    def make_harness(self, workdir: Path) -> BackendHarness:
        config: dict[str, Any] = {
            "pipeline_base_dir": str(workdir),
            "namespace": "default",
            "launcher_image": "launcher:1",
            "watch": self.watch,
            "poll_seconds": 1,
            "request_seconds": 3,
            "margin_seconds": 1,
            "kill_grace_seconds": 1,
        }
        harness = KubernetesHarness(
            create=partial(KubernetesBackend, **config),
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.kubernetes.backend:KubernetesBackend",
            config=config,
            server=self.server,
        )
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="science"),
            replace(ordinary, account="ccat"),
            replace(ordinary, extra={"resources": {"memory": "1Gi"}}),
        ]
        return harness


class TestKubernetes(_OnKubernetes):
    pass


class TestWithoutWatch(_OnKubernetes):
    watch = False


class TestOldServer(_OnKubernetes):
    version = "1.20"
