"""Disks that are full or read-only, and exit records that say nothing: an infrastructure failure, never a success."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import ExitRecord
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from tests.chaos.executing import Executing
from tests.support import invariants
from tests.support.step_runs import poll, start

GOOD = ExitRecord("job", exit_code=0).to_json()


@pytest.fixture
def backend(context: Context) -> Executing:
    backend = Executing()
    context.use_backend("noop", backend)
    object.__setattr__(context.worker_context.host, "exit_record_wait_seconds", 0.0)
    return backend


def finish(context: Context, backend: Executing, prepare: Callable[[Path, str], None]) -> Any:
    """A job comes to its end, after something has been done to its exit record: the step run after it was collected."""
    start(context)
    context.launcher.launch("noop", 1)
    [job] = backend.jobs.values()
    request = job.request
    prepare(Path(AttemptFiles.of(request.workspace_dir, request.job_name).record), request.job_name)
    (Path(request.workspace_dir).parent / "output.partial" / "x").write_text("data")
    backend.set_state("fake-1", HPCJobInfo(JobStatus.COMPLETED, 0))
    poll(context)
    with context.database.read() as unit:
        assert list(invariants.while_working(unit)) == []
        return unit.execute(
            "SELECT s.status, a.reason, (SELECT count(*) FROM products) AS products"
            " FROM step_runs s JOIN attempts a ON a.step_run_id = s.id AND a.number = 1"
        ).one()


def write(text: str | bytes) -> Callable[[Path, str], None]:
    def prepare(path: Path, name: str) -> None:
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(data.replace(b'"job"', json.dumps(name).encode()))

    return prepare


BAD: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "missing": (lambda path, name: None, "exit_record_missing"),
    "a link to nowhere": (lambda path, name: path.symlink_to("nowhere"), "exit_record_unreadable"),
    "a directory": (lambda path, name: path.mkdir(), "exit_record_unreadable"),
    "empty": (write(""), "exit_record_unreadable"),
    "truncated": (write(GOOD[: len(GOOD) // 2]), "exit_record_unreadable"),
    "binary": (write(os.urandom(512) + b"\xff"), "exit_record_unreadable"),
    "not a record": (write("[1, 2, 3]"), "exit_record_unreadable"),
    "very deep": (write("[" * 60_000), "exit_record_unreadable"),
    "of another job": (write(GOOD.replace('"job"', '"other"')), "exit_record_unreadable"),
}


def test_a_good_record_is_a_success(context: Context, backend: Executing) -> None:
    assert tuple(finish(context, backend, write(GOOD))) == ("COMPLETED", None, 1)


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_says_nothing_is_no_success(context: Context, backend: Executing, name: str) -> None:
    prepare, reason = BAD[name]
    # PENDING: it is tried again, as after any failure that is not the program's own.
    assert tuple(finish(context, backend, prepare)) == ("PENDING", reason, 0)


def test_what_is_left_of_a_job_that_succeeded_is_a_warning(context: Context, backend: Executing) -> None:
    words = "2 processes of the job could not be killed: 4242, 4243"
    found = finish(context, backend, write(ExitRecord("job", exit_code=0, left_text=words).to_json()))
    assert tuple(found) == ("COMPLETED", None, 1)
    with context.database.read() as unit:
        assert unit.execute("SELECT warnings FROM attempts").scalar() == [words]


CONTRADICTING: dict[str, tuple[ExitRecord, str, str]] = {
    "a failure": (ExitRecord("job", exit_code=3), "FAILED", "program_failed"),
    "a signal": (ExitRecord("job", exit_code=139, signal=11), "FAILED", "killed_by_signal"),
    "never started": (ExitRecord("job", exit_code=None), "PENDING", "backend_failed"),
    "stopped": (ExitRecord("job", exit_code=0, stopped_by="log_limit", stopped_text="too long"), "FAILED", "log_limit"),
}


@pytest.mark.parametrize("name", CONTRADICTING)
def test_a_record_of_a_failure_is_no_success_whatever_the_backend_says(
    context: Context, backend: Executing, name: str
) -> None:
    record, status, reason = CONTRADICTING[name]
    assert tuple(finish(context, backend, write(record.to_json()))) == (status, reason, 0)
    with context.database.read() as unit:
        # What the backend has said is kept where the record knows nothing.
        code = unit.execute("SELECT exit_code FROM attempts WHERE number = 1").scalar()
    assert code == (record.exit_code or 0)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EROFS, "staging_failed")],
    ids=["full", "quota", "read-only"],
)
def test_a_disk_that_takes_nothing_when_a_job_is_staged(
    context: Context, backend: Executing, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse(path: str, *_: object) -> None:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patch:
        patch.setattr("ccat_workflow_manager.execution.layout.os.mkdir", refuse)
        start(context)
        context.launcher.launch("noop", 1)
    with context.database.read() as unit:
        found = unit.execute("SELECT s.status, a.reason FROM step_runs s JOIN attempts a ON a.step_run_id = s.id").one()
    assert (tuple(found), backend.jobs) == (("PENDING", reason), {})


def test_a_disk_that_takes_nothing_when_products_are_published(
    context: Context, backend: Executing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), source)

    def prepare(path: Path, name: str) -> None:
        write(GOOD)(path, name)
        monkeypatch.setattr("ccat_workflow_manager.execution.outputs.os.rename", refuse)

    assert tuple(finish(context, backend, prepare)) == ("PENDING", "output_unreadable", 0)
