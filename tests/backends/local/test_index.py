"""The index of local jobs: what it says to the next supervisor, whatever happened to the last one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.supervisor import index as index_module
from ccat_workflow_manager.hpc.supervisor.index import INDEX_NAME, Index
from ccat_workflow_manager.hpc.supervisor.jobs import Job, Stop, new_job


def job(number: int, boot: str = "this") -> Job:
    item = {"id": f"id-{number}", "name": f"job-{number}", "workspace": "/w/ü\udcff", "submitted": float(number)}
    return new_job({**item, "cpu": 0.5, "memory": 10, "time_limit": 60.0, "priority": 3, "boot": boot}, boot)


def after(directory: Path) -> list[Job]:
    """What a new supervisor finds."""
    return Index(str(directory)).load("this")


def test_jobs_come_back_as_they_were_oldest_first(tmp_path: Path) -> None:
    index = Index(str(tmp_path))
    for number in (2, 1, 3):
        index.add(job(number))
    index.add_stop("id-1", Stop("cancel", "cancelled on request"))
    index.remove("id-3")
    found = after(tmp_path)
    assert [each.id for each in found] == ["id-1", "id-2"]
    assert found[0].stop == Stop("cancel", "cancelled on request")
    expected = job(2)
    names = ("name", "workspace", "cpu_milli", "memory", "time_limit", "priority", "submitted", "boot", "files", "stop")
    assert [getattr(found[1], name) for name in names] == [getattr(expected, name) for name in names]


def test_a_job_that_is_added_again_keeps_its_stop(tmp_path: Path) -> None:
    index = Index(str(tmp_path))
    index.add(job(1, boot="before"))
    index.add_stop("id-1", Stop("cancel", "why"))
    [found] = Index(str(tmp_path)).load("this")
    found.boot = "this"
    again = Index(str(tmp_path))
    again.load("this")
    again.add(found)
    [last] = after(tmp_path)
    assert (last.boot, last.stop) == ("this", Stop("cancel", "why"))


@pytest.mark.parametrize("rest", [b'{"id": "id-2", "na', b'{"id": "id-2"}\n', b"\xff\n", b"[]\n", b"{}\n", b"\n"])
def test_what_was_cut_short_or_means_nothing_is_passed_over(tmp_path: Path, rest: bytes) -> None:
    Index(str(tmp_path)).add(job(1))
    with (tmp_path / INDEX_NAME).open("ab") as file:
        file.write(rest)
    index = Index(str(tmp_path))
    assert [each.id for each in index.load("this")] == ["id-1"]
    index.add(job(3))
    assert [each.id for each in after(tmp_path)] == ["id-1", "id-3"]


def test_history_does_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_HISTORY", 10)
    index = Index(str(tmp_path))
    index.add(job(0))
    for number in range(1, 500):
        index.add(job(number))
        index.remove(f"id-{number}")
    assert len((tmp_path / INDEX_NAME).read_text().splitlines()) < 20
    assert [each.id for each in after(tmp_path)] == ["id-0"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(str(tmp_path))
    index.add(job(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    with pytest.raises(OSError, match="No space left") as refused:
        index.add(job(2))
    assert refused.value.filename == str(tmp_path / INDEX_NAME)
    monkeypatch.undo()
    index.add(job(3))
    assert [each.id for each in after(tmp_path)] == ["id-1", "id-3"]
