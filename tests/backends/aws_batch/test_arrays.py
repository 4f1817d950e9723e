"""Which listings show the states of all children of an array."""

from __future__ import annotations

from ccat_workflow_manager.hpc.aws_batch.arrays import ArrayChildren, chunks, index_of
from ccat_workflow_manager.hpc.aws_batch.status import DescribedJob


def parent(**children: int) -> DescribedJob:
    return DescribedJob("a", "array", "PENDING", children=children)


def child(index: int, status: str) -> DescribedJob:
    return DescribedJob(f"a:{index}", "array", status)


def states(book: ArrayChildren, of: DescribedJob, size: int) -> list[str]:
    return [book.child(of, index).status for index in range(size)]


def test_a_life() -> None:
    book = ArrayChildren("a")
    waiting = parent(RUNNABLE=4)
    assert book.to_list(waiting) == []
    book.listed(waiting, [], [])
    assert states(book, waiting, 4) == ["RUNNABLE"] * 4
    mixed = parent(RUNNABLE=1, RUNNING=2, SUCCEEDED=1)
    assert book.to_list(mixed) == ["SUCCEEDED", "RUNNING"]
    book.listed(mixed, ["SUCCEEDED", "RUNNING"], [child(0, "SUCCEEDED"), child(1, "RUNNING"), child(3, "RUNNING")])
    assert states(book, mixed, 4) == ["SUCCEEDED", "RUNNING", "RUNNABLE", "RUNNING"]
    assert book.to_list(mixed) == []  # nothing has changed
    later = parent(RUNNING=1, SUCCEEDED=1, FAILED=2)
    assert book.to_list(later) == ["FAILED", "RUNNING"]  # the ones that have succeeded are known
    book.listed(later, ["FAILED", "RUNNING"], [child(1, "FAILED"), child(3, "FAILED"), child(2, "RUNNING")])
    assert states(book, later, 4) == ["SUCCEEDED", "FAILED", "RUNNING", "FAILED"]
    over = parent(SUCCEEDED=2, FAILED=2)
    assert book.to_list(over) == ["SUCCEEDED"]
    book.listed(over, ["SUCCEEDED"], [child(0, "SUCCEEDED"), child(2, "SUCCEEDED")])
    assert states(book, over, 4) == ["SUCCEEDED", "FAILED", "SUCCEEDED", "FAILED"]
    assert book.to_list(over) == []


def test_a_listing_that_lags_behind_the_counts() -> None:
    book = ArrayChildren("a")
    counts = parent(RUNNING=1, SUCCEEDED=1)
    assert book.to_list(counts) == ["SUCCEEDED", "RUNNING"]
    book.listed(counts, ["SUCCEEDED", "RUNNING"], [child(0, "RUNNING")])
    assert book.to_list(counts) == ["SUCCEEDED"]
    book.listed(counts, ["SUCCEEDED"], [child(1, "SUCCEEDED")])
    assert states(book, counts, 2) == ["RUNNING", "SUCCEEDED"]
    started = parent(RUNNING=2)
    lagging = ArrayChildren("a")
    lagging.listed(started, ["RUNNING"], [child(0, "RUNNING")])
    assert lagging.to_list(started) == ["RUNNING"]  # one of two was shown


def test_a_child_whose_end_is_not_shown_yet() -> None:
    """The end of the array does not show how a child has ended."""
    over = DescribedJob("a", "array", "FAILED", children={"FAILED": 1, "SUCCEEDED": 1})
    assert ArrayChildren("a").child(over, 0).status == "RUNNING"


def test_small_things() -> None:
    assert list(chunks([1, 2, 3], 2)) == [[1, 2], [3]]
    assert index_of("a:12") == 12
    assert index_of("a") is None
    assert index_of("a:b") is None
