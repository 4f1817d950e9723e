"""How full the disks are: looked at in a thread, so that one that hangs holds up nobody."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ccat_workflow_manager.services.disks import Disk, Disks


def test_directories_of_one_file_system_are_one_disk_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    disks = Disks({"A": tmp_path, "B": tmp_path, "C": tmp_path / "missing"})
    assert (disks.seen, disks.problem) == ((), "")
    disks.look()
    (found,) = disks.seen
    facts = os.statvfs(tmp_path)
    assert found.names == ("A", "B")
    assert found.total == (facts.f_blocks - facts.f_bfree + facts.f_bavail) * facts.f_frsize
    assert 0 <= found.used <= 1
    assert Disk(("A",), 0, 0).used == 0


def test_a_file_system_that_hangs_is_a_problem_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked, answer = [0.0], threading.Event(), threading.Event()
    disks = Disks({"A": tmp_path}, clock=lambda: now[0])
    disks.look()
    real = os.statvfs

    def hangs(path: Path) -> os.statvfs_result:
        asked.set()
        answer.wait()
        return real(path)

    monkeypatch.setattr(os, "statvfs", hangs)
    thread = threading.Thread(target=disks.look)
    thread.start()
    asked.wait()
    now[0] = 59.0
    assert disks.problem == ""
    now[0] = 61.0
    assert "60 s" in disks.problem
    assert len(disks.seen) == 1, "what was seen last"
    answer.set()
    thread.join()
    assert disks.problem == ""


def test_a_full_disk_is_a_cause_until_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [5]
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_blocks=120, f_bfree=free[0] + 20, f_bavail=free[0], f_frsize=1000)
    )
    disks = Disks({"A": tmp_path, "B": tmp_path})
    disks.look()
    (cause,) = disks.causes()
    assert (cause["kind"], cause["id"], cause["disk"]) == ("space", "A B", Disk(("A", "B"), 100_000, 5000))
    assert "95 %" in cause["text"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", cause["since"])
    free[0] = 4
    disks.look()
    assert disks.causes()[0]["since"] == cause["since"]
    assert [Disk((), 1000, room).percent for room in (1, 0)] == ["99 %", "100 %"]
    free[0] = 50
    disks.look()
    assert disks.causes() == []


def test_a_directory_that_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: Path) -> os.statvfs_result:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "statvfs", stale)
    disks = Disks({"PIPELINE_BASE_DIR": tmp_path})
    disks.look()
    assert disks.problem.startswith("PIPELINE_BASE_DIR: ")
    assert disks.seen == []
