"""Processes are found and ended whatever they are doing at that moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from ccat_workflow_manager.hpc.attempt import process_tree

_LOOKS = 3000
_LARGE = "x = bytearray(b'x') * (400 << 20); print('there', flush=True); input()"


@pytest.fixture
def job_id() -> str:
    return f"job-{uuid4().hex}"


@contextmanager
def running(*command: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_that_runs_one_program_after_another_keeps_its_mark(job_id: str, tmp_path: Path) -> None:
    script = tmp_path / "again"
    script.write_text('#!/bin/sh\nexec "$0"\n')
    script.chmod(0o755)
    with running(str(script), environment={process_tree.MARK: job_id}) as process:
        seen = [process_tree.marked(job_id, [process.pid]) for _ in range(_LOOKS)]
    assert seen == [{process.pid}] * _LOOKS


def test_a_process_without_environment_has_no_mark(job_id: str) -> None:
    with running("/bin/cat", environment={}) as process:
        assert process_tree.marked(job_id, [process.pid]) == set()


def test_a_large_process_has_ended_once_it_is_said_to_be_killed(job_id: str) -> None:
    """The kernel frees its memory first. During that time the process has no environment, so no mark, but is there."""
    environment = {process_tree.MARK: job_id}
    with running(sys.executable, "-I", "-S", "-c", _LARGE, environment=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process_tree.kill_all(job_id, None)
        found = process_tree.look(process.pid)
        assert found is not None
        assert not found.alive
