"""The budget of scheduler calls, and what is written down about submissions."""

from __future__ import annotations

import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.batch import calls
from ccat_workflow_manager.hpc.batch.calls import CallBudget, SchedulerCommands
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission, SubmissionStore, array_name


def _take_many(directory: Path) -> int:
    budget = CallBudget(directory, 40)
    return sum(budget.take(looking=False) is None for _ in range(40))


def test_processes_share_one_budget(tmp_path: Path) -> None:
    with get_context("spawn").Pool(3) as pool:
        taken = pool.map(_take_many, [tmp_path] * 3)
    assert sum(taken) == 40
    assert CallBudget(tmp_path, 40).used() == 40


def test_looking_leaves_room_for_submitting(tmp_path: Path) -> None:
    budget = CallBudget(tmp_path, 8)
    looks = [budget.take(looking=True) for _ in range(8)]
    assert looks[:6] == [None] * 6
    assert all(wait is not None and 0 < wait <= calls.WINDOW_SECONDS for wait in looks[6:])
    assert [budget.take(looking=False) for _ in range(2)] == [None, None]
    assert budget.take(looking=False) is not None


def test_calls_are_forgotten_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    budget = CallBudget(tmp_path, 1)
    assert budget.take(looking=False) is None
    assert budget.take(looking=False) == calls.WINDOW_SECONDS
    now += 60.5
    assert budget.take(looking=False) is None
    now -= 3600
    assert budget.take(looking=False) is None, "a clock that is set back must not block for ever"


def test_a_spent_budget_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_LONGEST_WAIT_SECONDS", 0.0)
    commands = SchedulerCommands("slurm", CallBudget(tmp_path, 1), {}, 10)
    assert commands.run(["true"], looking=False).returncode == 0
    with pytest.raises(BackendUnavailable, match="budget of 1 scheduler calls a minute is used up, so no true now"):
        commands.run(["true"], looking=False)
    with pytest.raises(BackendUnavailable, match="no program 'no-such-program'"):
        commands.run(["no-such-program"], looking=False)


def test_a_command_that_fails_is_quoted(tmp_path: Path) -> None:
    commands = SchedulerCommands("slurm", CallBudget(tmp_path, 9), {}, 10)
    with pytest.raises(BackendUnavailable, match="sh failed with 3: it is broken"):
        commands.look(["sh", "-c", "echo it is broken >&2; exit 3"], str)


def test_commands_see_none_of_the_workers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "not wanted")
    commands = SchedulerCommands("slurm", CallBudget(tmp_path, 9), {"SLURM_CONF": "/x"}, 10)
    seen = commands.look(["env"], str)
    assert "SBATCH_PARTITION" not in seen
    assert "SLURM_CONF=/x" in seen


# --- what is written down ---------------------------------------------------------------------------------------------


def submission(*names: str) -> Submission:
    members = tuple(ArrayTask(name, f"/data/{name}/workspace") for name in names)
    return Submission(array_name(names) if len(names) > 1 else names[0], len(names) > 1, members, 1.0, 2.0)


def test_a_submission_is_known_by_each_of_its_jobs(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path)
    store.add(submission("a", "b", "c"))
    other = SubmissionStore(tmp_path)
    found = other.of_job("b")
    assert found is not None
    assert (found[1], found[0].number, found[0].job_id(1)) == (1, None, None)
    store.numbered(found[0], "17")
    again = other.of_job("b")
    assert again is not None
    assert again[0].job_id(again[1]) == "17_1:b"
    assert other.of_job("d") is None


def test_nothing_is_left_of_what_is_forgotten(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path)
    store.add(submission("a", "b"))
    store.add(submission("single"))
    for name in ("b", "b", "single", "nobody"):
        store.forget(name)
    assert store.of_job("a") is not None
    store.forget("a")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_job_that_another_worker_forgot_is_not_known(tmp_path: Path) -> None:
    follower, collector = SubmissionStore(tmp_path), SubmissionStore(tmp_path)
    collector.add(submission("a"))
    collector.numbered(submission("a"), "17")
    assert follower.of_job("a") is not None
    collector.forget("a")
    assert follower.of_job("a") is None


def test_a_job_is_in_one_submission_until_that_is_known_to_have_failed(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path)
    store.add(submission("a", "b"))
    with pytest.raises(JobDeferred, match="another worker"):
        store.add(submission("a"))
    found = store.of_job("a")
    assert found is not None
    assert found[0].array
    store.drop(found[0])
    store.add(submission("a"))
    found = store.of_job("a")
    assert found is not None
    assert not found[0].array
