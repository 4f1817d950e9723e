"""Two workers that both believe that they are to submit a job: the one that was silent too long comes away empty."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import JobDeferred
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission, SubmissionStore


def submission(*names: str, name: str = "", settled_in: float = 60) -> Submission:
    members = tuple(ArrayTask(each, f"/nowhere/{each}") for each in names)
    now = time.time()
    return Submission(name or names[0], len(names) > 1, members, now, now + settled_in)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[SubmissionStore, SubmissionStore]:
    return SubmissionStore(tmp_path), SubmissionStore(tmp_path)


def files(store: SubmissionStore) -> list[str]:
    return sorted(path.name for path in store.directory.glob("*/*"))


@pytest.mark.parametrize("number", [None, "17"], ids=["being submitted", "submitted"])
@pytest.mark.parametrize("name", ["a", "ccat-array-1"], ids=["alone", "in an array"])
def test_a_job_that_another_worker_has_in_hand_is_left_to_it(
    stores: tuple[SubmissionStore, SubmissionStore], name: str, number: str | None
) -> None:
    quick, slow = stores
    first = submission("a")
    quick.add(first)
    if number is not None:
        quick.numbered(first, number)
    before = files(quick)
    late = submission("a") if name == "a" else submission("b", "a", "c", name=name)
    with pytest.raises(JobDeferred, match="another worker"):
        slow.add(late)
    assert files(quick) == before
    found = quick.of_job("a")
    assert found is not None
    assert (found[0].number, found[0].members) == (number, first.members)


def test_what_was_dropped_or_forgotten_is_submitted_anew(stores: tuple[SubmissionStore, SubmissionStore]) -> None:
    first, second = stores
    both = submission("a", "b", name="ccat-array-1")
    first.add(both)
    first.drop(both)
    assert files(first) == []
    second.add(both)
    second.numbered(both, "17")
    for name in ("a", "b"):
        second.forget(name)
    assert files(first) == []
    first.add(submission("a"))
    assert first.of_job("a") is not None


def test_what_a_worker_left_that_died_before_it_submitted_is_replaced_when_that_is_settled(
    stores: tuple[SubmissionStore, SubmissionStore],
) -> None:
    dead, alive = stores
    dead.add(submission("a", settled_in=-1))
    (dead.directory / "jobs" / "a").unlink()
    alive.add(submission("a"))
    found = alive.of_job("a")
    assert found is not None
    assert found[0].settled_at > time.time()
