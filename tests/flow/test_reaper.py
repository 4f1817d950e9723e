"""Jobs that nobody waits for any more are found and stopped; those of others are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources, job_name
from tests.support.fixtures_service import Service, ServiceMaker
from tests.support.waiting import wait_until


@pytest.fixture
def service(make_service: ServiceMaker) -> Service:
    return make_service(REAPER_SECONDS="1", REAPER_GRACE_SECONDS="1", KILL_GRACE_SECONDS="0")


@pytest.fixture
def backend(service: Service) -> Iterator[HPCBackend]:
    """The backend of the deployment, used by somebody else."""
    state_dir = service.directory / "data" / "backends" / "local"
    backend = registry.create("local", state_dir=str(state_dir), kill_grace_seconds=0)
    yield backend
    backend.close()


def by_hand(backend: HPCBackend, directory: Path, name: str) -> str:
    """An endless job under this name."""
    for each in ("workspace", "logs"):
        (directory / each).mkdir(parents=True)
    return backend.submit(
        execution_command=["sleep", "1000"], image_ref=None, sif_path=None, input_dir="", output_dir="",
        workspace_dir=str(directory / "workspace"), manifest_path="",
        resource_requirements=Resources(cpu=0.1, memory_gb=0.1), environment_variables={}, job_name=name,
    )  # fmt: skip


def state(service: Service) -> dict[str, Any]:
    found: list[dict[str, Any]] = service.call("GET", "/backends")["items"]
    return next(each for each in found if each["name"] == "local")


def test_a_stray_job_is_stopped_and_a_foreign_one_is_not(service: Service, backend: HPCBackend, tmp_path: Path) -> None:
    run_id = service.submit({"name": "only", "command": ["true"]})
    endless = service.submit({"name": "endless", "command": ["sleep", "1000"]})
    service.wait_step(endless, "endless", lambda step: step["status"] == "RUNNING")
    assert service.wait(run_id)["status"] == "COMPLETED"
    step = service.step(run_id, "only")
    step_run_id = UUID(step["id"])
    stray = by_hand(backend, tmp_path / "stray", job_name(step_run_id, 1))
    foreign = by_hand(backend, tmp_path / "foreign", job_name(uuid4(), 1))
    unmade = by_hand(backend, tmp_path / "unmade", job_name(step_run_id, 2))

    wait_until(
        lambda: backend.get_status(stray).status is JobStatus.CANCELLED,
        60,
        lambda: f"the stray to end; {service.log()}",
    )
    wait_until(lambda: state(service)["stray_jobs"] == 0 and state(service)["unknown_jobs"] == 2, 60, "it to be told")
    assert state(service)["strays_stopped"] == 1
    assert backend.get_status(foreign).status is JobStatus.RUNNING
    assert backend.get_status(unmade).status is JobStatus.RUNNING
    assert service.step(endless, "endless")["status"] == "RUNNING"
    (attempt,) = service.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert f"the job {stray} was still there after this attempt was over, and was stopped" in attempt["warnings"]
    assert service.run(run_id)["status"] == "COMPLETED"
    backend.cancel_many([foreign, unmade])
