"""The Dask backend without any scheduler: its requirements and its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import claim
from ccat_workflow_manager.hpc.dask.backend import DaskBackend, DaskJob, job_store
from ccat_workflow_manager.hpc.dask.client import SchedulerClient, SchedulerInfo
from ccat_workflow_manager.hpc.dask.own_cluster import OwnCluster, Shape
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, JobStatus

SOMEWHERE = "tcp://127.0.0.1:1"


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_a_cluster_of_our_own_needs_openssl(nothing_installed: Path) -> None:
    found = DaskBackend.is_available()
    assert not found.available
    assert "openssl" in str(found.reason)
    assert DaskBackend.is_available(scheduler_address=SOMEWHERE).available


@pytest.mark.parametrize("broken", ["", "#!/bin/sh\nexit 3\n", "not a program"])
def test_without_openssl_the_cluster_is_unavailable(nothing_installed: Path, tmp_path: Path, broken: str) -> None:
    if broken:
        (nothing_installed / "openssl").write_text(broken)
        (nothing_installed / "openssl").chmod(0o755)
    with pytest.raises(BackendUnavailable, match="openssl"):
        OwnCluster(tmp_path / "state", Shape(1, 1, 1, 1)).address()


def test_a_job_that_another_worker_has_cleaned_up_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.setattr(SchedulerClient, "scheduler", lambda self: SchedulerInfo("one", {}))
    monkeypatch.setattr(SchedulerClient, "states", lambda self, keys: dict.fromkeys(keys, "processing"))
    backend = DaskBackend(scheduler_address=SOMEWHERE, state_dir=tmp_path)
    store = job_store(tmp_path)
    store.put("ccat-1", DaskJob("ccat-1", str(workspace), "one", 1.0))
    assert backend.get_status("ccat-1").status is JobStatus.PENDING
    store.remove("ccat-1")
    monkeypatch.setattr(SchedulerClient, "scheduler", lambda self: SchedulerInfo("two", {}))
    assert backend.get_status("ccat-1") == UNKNOWN


def test_a_job_that_the_scheduler_has_forgotten_never_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SchedulerClient, "scheduler", lambda self: SchedulerInfo("one", {}))
    monkeypatch.setattr(SchedulerClient, "states", lambda self, keys: dict.fromkeys(keys))
    job = DaskJob("ccat-1", str(tmp_path / "workspace"), "one", 1.0)
    job_store(tmp_path).put("ccat-1", job)
    info = DaskBackend(scheduler_address=SOMEWHERE, state_dir=tmp_path).get_status("ccat-1")
    assert (info.status, info.reason) == (JobStatus.FAILED, FailureReason.STOPPED_OUTSIDE)
    assert not claim.take(job.files, "tcp://node7:1")
