"""The Kubernetes backend at a stand-in cluster, as the contract and the tests of the backend use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kubernetes import client, config

from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import QueueStatus
from ccat_workflow_manager.hpc.kubernetes.backend import KubernetesBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.harness import BackendHarness, Job
from tests.stand_ins.kubernetes import ApiServer, Image
from tests.support.waiting import wait_until

IMAGES = {"launcher:1": Image(), "ccat/*": Image(root=Path("/"), environment={"OF_THE_IMAGE": "yes"})}
GATE = ': >"$1.waits"; until [ -e "$1" ]; do sleep 0.05; done; exit 0'


@dataclass
class KubernetesHarness(BackendHarness):
    """The service of this backend is an API server."""

    server: ApiServer | None = None

    @contextmanager
    def service_down(self) -> Iterator[None]:
        self.cluster.faults.drop(None)
        with self._cut_off():
            yield

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        self.cluster.faults.garbage(None)
        with self._cut_off():
            yield

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        before = self.requests()
        yield lambda: self.requests() - before

    @contextmanager
    def _cut_off(self) -> Iterator[None]:
        self.cluster.faults.close_watches()
        try:
            wait_until(self._fails, 10, "the backend to notice")
            yield
        finally:
            self.cluster.faults.clear()

    def _fails(self) -> bool:
        try:
            self.backend.queue_status()
        except BackendError:
            return True
        return False

    @property
    def cluster(self) -> ApiServer:
        assert self.server is not None
        return self.server

    def requests(self) -> int:
        """How many the server got so far, but for watches, which are open anyway."""
        return sum("watch=1" not in each.query for each in self.cluster.requests)

    def queue(self) -> QueueStatus:
        [queue] = self.backend.queue_status()
        return queue

    def begin_watching(self) -> None:
        self.backend.listen(lambda _: None)
        self.wait_for_watches()

    def wait_for_watches(self) -> None:
        wait_until(lambda: self.queue().details["watched"], 20, "the watches to stand")

    def gated(self, *, stubborn: bool = False) -> tuple[Job, Path]:
        """A job whose command runs until the file exists; a stubborn one until it is killed, too."""
        gate = self.attempt().root / "go"
        job = self.submit("/bin/sh", "-c", "trap '' TERM; " * stubborn + GATE, "sh", str(gate))
        self.until(job, JobStatus.RUNNING)
        # A pod runs before its script does.
        wait_until(gate.with_name("go.waits").exists, 20, "the command to run")
        return job, gate

    def complete(self, *command: str) -> Job:
        job = self.submit(*(command or ("true",)))
        self.until(job, JobStatus.COMPLETED)
        return job


def kubernetes_harness(server: ApiServer, workdir: Path, **settings: Any) -> KubernetesHarness:
    """At the cluster of KUBECONFIG, which is to be that of the server."""
    config = {
        "pipeline_base_dir": str(workdir), "namespace": "default", "launcher_image": "launcher:1", "request_seconds": 3,
        "poll_seconds": 1, "margin_seconds": 1, "kill_grace_seconds": 1, **settings,
    }  # fmt: skip
    return KubernetesHarness(
        create=partial(KubernetesBackend, **config),
        workdir=workdir,
        factory="ccat_workflow_manager.hpc.kubernetes.backend:KubernetesBackend",
        config=config,
        # By the clock of the cluster, which is faster than that of this machine.
        resources=Resources(cpu=1, memory_gb=0.25, time_hours=0.5),
        shortest_time_hours=20 / 3600,
        server=server,
    )


# --- as another client sees the cluster ------------------------------------------------------------------------------


def name_of(job: Job) -> str:
    """Of its Job at the API server."""
    return job.id.partition("/")[2]


def core_api() -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(os.environ["KUBECONFIG"]))


def batch_api() -> client.BatchV1Api:
    return client.BatchV1Api(config.new_client_from_config(os.environ["KUBECONFIG"]))


def pods_of(job: Job) -> list[str]:
    return [str(each.metadata.name) for each in _pods(job)]


def phases_of(job: Job) -> list[str]:
    return sorted((str(each.status.phase) for each in _pods(job)), reverse=True)


def _pods(job: Job) -> Sequence[Any]:
    found = core_api().list_namespaced_pod("default", label_selector=f"job-name={name_of(job)}")
    return list(found.items)


def delete_job(job: Job, policy: str = "Background") -> None:
    batch_api().delete_namespaced_job(name_of(job), "default", propagation_policy=policy)
