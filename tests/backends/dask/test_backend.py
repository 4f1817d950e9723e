"""What the Dask backend does without any scheduler: what it needs, what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.dask import backend as module
from ccat_workflow_manager.hpc.dask.backend import DaskBackend
from ccat_workflow_manager.hpc.dask.link import DaskLink, SchedulerSeen
from ccat_workflow_manager.hpc.dask.notes import Note, NoteStore
from ccat_workflow_manager.hpc.dask.own_cluster import OwnCluster, Shape
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN

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


def note(number: int, tmp_path: Path, scheduler: str = "before") -> Note:
    return Note(f"ccat-{number}", str(tmp_path), scheduler, 1.0)


def test_only_so_many_jobs_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    backend = DaskBackend(scheduler_address=SOMEWHERE, state_dir=tmp_path)
    others = NoteStore(tmp_path)
    read: list[str] = []
    really_read = NoteStore.read

    def counted(self: NoteStore, job_name: str) -> Note | None:
        read.append(job_name)
        return really_read(self, job_name)

    monkeypatch.setattr(NoteStore, "read", counted)
    for number in range(30):
        others.write(note(number, tmp_path))
        assert backend._note(f"ccat-{number}") == note(number, tmp_path)
        backend._note("ccat-0")
        others.forget(f"ccat-{number}")
    assert len(backend._remembered) == 10
    assert read.count("ccat-0") == 1  # what is asked for again and again stays


def test_a_job_that_somebody_else_has_cleaned_up_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def states(self: DaskLink, keys: Sequence[str]) -> dict[str, str | None]:
        return dict.fromkeys(keys)

    monkeypatch.setattr(DaskLink, "scheduler", lambda self: SchedulerSeen("after", {}))
    monkeypatch.setattr(DaskLink, "states", states)
    backend = DaskBackend(scheduler_address=SOMEWHERE, state_dir=tmp_path)
    others = NoteStore(tmp_path)
    others.write(note(1, tmp_path))
    assert backend._note("ccat-1") is not None
    others.forget("ccat-1")
    assert backend.get_status("ccat-1") == UNKNOWN
    assert not backend._remembered


def test_a_job_that_is_over_need_not_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another worker that cleans it up."""
    monkeypatch.setattr(DaskLink, "scheduler", lambda self: SchedulerSeen("before", {}))
    monkeypatch.setattr(DaskLink, "states", lambda self, keys: dict.fromkeys(keys))
    backend = DaskBackend(scheduler_address=SOMEWHERE, state_dir=tmp_path)
    (tmp_path / "workspace").mkdir()
    (tmp_path / "logs").mkdir()
    NoteStore(tmp_path).write(Note("ccat-1", str(tmp_path / "workspace"), "before", 1.0))
    assert backend.get_status("ccat-1").finished  # no scheduler knows it
    assert not backend._remembered
