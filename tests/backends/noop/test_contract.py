"""The noop backend keeps every clause about states, and claims none about programs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendRejected, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.hpc.noop import NoopBackend
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness


class TestNoop(BackendContract):
    not_claimed = frozenset(
        {
            "arguments_and_environment_arrive",
            "awkward_paths",
            "cancel_ignoring_term",
            "cancel_kills_the_whole_tree",
            "cancelled_by_the_listed_id",
            "ends_are_notified",
            "environment_is_clean",
            "exit_255_is_failed",
            "exit_3_is_failed",
            "exit_record_is_there",
            "find_adopts",
            "find_by_name",
            "killed_by_signal_is_failed",
            "limits_do_not_hurt_the_modest",
            "lists_each_of_many",
            "lists_what_has_not_ended",
            "logs_after_the_end",
            "logs_are_kept_apart",
            "logs_while_running",
            "memory_limit",
            "metrics_are_plausible",
            "missing_program_is_failed",
            "only_the_workspace_exists",
            "own_variables_win",
            "service_down_is_unavailable",
            "starts_in_workspace",
            "tail_of_a_stream",
            "time_limit",
            "unreadable_answer_is_confused",
        }
    )

    def make_harness(self, workdir: Path) -> BackendHarness:
        config: dict[str, Any] = {"state_dir": str(workdir / "state")}
        return BackendHarness(
            create=partial(NoopBackend, **config),
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.noop:NoopBackend",
            config=config,
            endless_extra={"delay_seconds": 3600 * 24},
        )


def test_takes_what_scripts_write() -> None:
    backend = NoopBackend()
    asked: dict[str, Any] = {"cpu": 1, "memory_gb": 1, "extra": {"outcome": "failed", "exit_code": 3}}
    where: dict[str, Any] = dict.fromkeys(("image_ref", "sif_path", "input_dir", "output_dir", "manifest_path"))
    rest: dict[str, Any] = {"workspace_dir": Path("/anywhere"), "environment_variables": None, "job_name": "job"}
    job_id = backend.submit(execution_command=["true"], resource_requirements=asked, **where, **rest)
    assert backend.get_status(job_id).exit_code == 3


def _request(name: str = "job", **extra: Any) -> JobRequest:
    return JobRequest(["true"], resource_requirements=Resources(extra=extra), job_name=name)


def _submit(backend: NoopBackend, name: str = "job", **extra: Any) -> str:
    [job_id] = backend.submit_many([_request(name, **extra)])
    assert isinstance(job_id, str), job_id
    return job_id


def test_goes_through_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    backend = NoopBackend(delay_seconds=100)
    job_id = _submit(backend)
    seen = []
    for later in (0, 0.9, 1, 100.9, 101):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        seen.append(backend.get_status(job_id).status)
    assert seen == ["pending", "pending", "running", "running", "completed"]
    info = backend.get_status(job_id)
    assert info.started_at is not None
    assert info.finished_at is not None
    assert (info.finished_at - info.started_at).total_seconds() == info.wall_time_seconds == 100
    assert (info.cpu_hours, info.peak_memory_gb, info.exit_code) == (0, 0, 0)


@pytest.mark.parametrize(
    ("extra", "reason", "exit_code"),
    [
        ({"outcome": "failed"}, FailureReason.PROGRAM_FAILED, 1),
        ({"outcome": "failed", "exit_code": 3}, FailureReason.PROGRAM_FAILED, 3),
        ({"outcome": "out_of_memory"}, FailureReason.OUT_OF_MEMORY, 137),
        ({"outcome": "time_limit"}, FailureReason.TIME_LIMIT, 143),
    ],
)
def test_ends_as_asked(extra: Mapping[str, Any], reason: FailureReason, exit_code: int) -> None:
    backend = NoopBackend()
    info = backend.get_status(_submit(backend, **extra))
    assert (info.status, info.reason, info.exit_code) == (JobStatus.FAILED, reason, exit_code)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"constraint": "fast"}, "extra.constraint means nothing here"),
        ({"delay_seconds": "1"}, "extra.delay_seconds must be a number"),
        ({"delay_seconds": -1}, "extra.delay_seconds must be a number"),
        ({"delay_seconds": float("nan")}, "extra.delay_seconds must be a number"),
        ({"delay_seconds": True}, "extra.delay_seconds must be a number"),
        ({"outcome": "lost"}, "extra.outcome must be one of completed, failed"),
        ({"outcome": []}, "extra.outcome must be one of"),
        ({"exit_code": 3}, "contradict"),
        ({"outcome": "failed", "exit_code": 0}, "contradict"),
        ({"outcome": "failed", "exit_code": 256}, "from 0 to 255"),
    ],
)
def test_refuses_what_it_does_not_understand(extra: Mapping[str, Any], complaint: str) -> None:
    [error] = NoopBackend().submit_many([_request(**extra)])
    assert isinstance(error, BackendRejected)
    assert complaint in error.message


def test_failure_rate_is_kept_and_depends_on_the_name_only() -> None:
    backend = NoopBackend(failure_rate=0.25)
    requests = [_request(f"ccat-{number}-1") for number in range(2000)]
    drawn = [[info.status for info in backend.get_statuses(_ids(backend, requests)).values()] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 400 < drawn[0].count(JobStatus.FAILED) < 600
    assert NoopBackend(failure_rate=1).get_status(_submit(NoopBackend(failure_rate=1))).status is JobStatus.FAILED


@pytest.mark.parametrize("config", [{"delay_seconds": -1}, {"failure_rate": 1.5}, {"failure_rate": -0.1}])
def test_bad_configuration_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="NOOP_"):
        NoopBackend(**config)


@pytest.mark.parametrize("with_directory", [True, False])
def test_cancelled_stays_cancelled_until_cleanup(tmp_path: Path, with_directory: bool) -> None:
    backend = NoopBackend(delay_seconds=3600, state_dir=tmp_path / "state" if with_directory else None)
    job_id, other = _submit(backend, "job:with/strange name"), _submit(backend, "other")
    backend.cancel(job_id)
    info = backend.get_status(job_id)
    assert (info.status, info.reason, info.exit_code) == (JobStatus.CANCELLED, FailureReason.CANCELLED, None)
    assert backend.get_status(other).status is JobStatus.PENDING
    backend.cleanup(job_id)
    assert backend.get_status(job_id).status is JobStatus.PENDING
    backend.cleanup(job_id)


def test_a_cancel_that_cannot_be_written_down_is_not_lost_silently(tmp_path: Path) -> None:
    backend = NoopBackend(delay_seconds=3600, state_dir=tmp_path / "file" / "state")
    job_id = _submit(backend)
    assert backend.get_status(job_id).status is JobStatus.PENDING
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable):
        backend.cancel(job_id)
    with pytest.raises(BackendUnavailable):
        backend.get_status(job_id)


@pytest.mark.parametrize(
    "job_id", ["noop-1-2-completed:x", "noop-1-2-lost-0:x", "noop-²-2-failed-1:x", f"noop-{'9' * 5000}-1-failed-1:x"]
)
def test_damaged_ids_are_unknown(job_id: str) -> None:
    assert NoopBackend().get_status(job_id).status is JobStatus.UNKNOWN


def _ids(backend: NoopBackend, requests: list[JobRequest]) -> list[str]:
    return [job_id for job_id in backend.submit_many(requests) if isinstance(job_id, str)]
