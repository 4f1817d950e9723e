"""Waiting for the exit record of a finished job, and rejecting unreadable ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import LeaseLost, OutputError
from ccat_workflow_manager.execution.exit_check import check_exit_record
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import ExitRecord

JOB = "ccat-1"


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    (tmp_path / "workspace").mkdir()
    return str(tmp_path / "workspace")


def write(workspace: str, text: str) -> None:
    Path(AttemptFiles.of(workspace, JOB).record).write_text(text)


def failure(workspace: str) -> FailureReason:
    with pytest.raises(OutputError) as failed:
        check_exit_record(workspace, JOB)
    return failed.value.reason


def test_a_record_is_read(workspace: str) -> None:
    record = ExitRecord(JOB, 3)
    write(workspace, record.to_json())
    assert check_exit_record(workspace, JOB) == record


def test_no_record(workspace: str) -> None:
    assert failure(workspace) is FailureReason.EXIT_RECORD_MISSING


@pytest.mark.parametrize("text", ["", "{", ExitRecord("other-job", 0).to_json(), ExitRecord(JOB, 0).to_json()[:-9]])
def test_content_that_is_not_the_record_of_this_job(workspace: str, text: str) -> None:
    write(workspace, text)
    assert failure(workspace) is FailureReason.EXIT_RECORD_UNREADABLE


def test_a_record_that_cannot_be_opened(workspace: str) -> None:
    os.mkdir(AttemptFiles.of(workspace, JOB).record)
    assert failure(workspace) is FailureReason.EXIT_RECORD_UNREADABLE


def test_a_record_may_appear_late(workspace: str) -> None:
    calls: list[int] = []

    def appear() -> None:
        calls.append(1)
        if len(calls) == 3:
            write(workspace, ExitRecord(JOB, 0).to_json())

    assert check_exit_record(workspace, JOB, patience_seconds=10, progress=appear).exit_code == 0
    assert len(calls) == 3


def test_the_wait_ends_with_the_patience_or_with_the_lease(workspace: str) -> None:
    with pytest.raises(OutputError):
        check_exit_record(workspace, JOB, patience_seconds=0.05)

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        check_exit_record(workspace, JOB, patience_seconds=10, progress=lost)
