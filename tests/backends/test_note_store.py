"""Small files about jobs, and the cache of finished ones."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc.note_store import NoteStore


@dataclass(frozen=True, slots=True)
class Note:
    number: int
    path: str


def store(directory: Path, suffix: str = "") -> NoteStore[Note]:
    return NoteStore("dask", directory, asdict, lambda data: Note(**data), suffix)


def test_values(tmp_path: Path) -> None:
    notes, other = store(tmp_path / "jobs", ".note"), store(tmp_path / "jobs", ".other")
    first = Note(1, "/odd/\udcff\u00e9")
    assert notes.get("job") is None
    assert notes.add("job", first)
    assert not notes.add("job", Note(2, ""))
    assert notes.get("job") == first
    notes.put("job", Note(3, ""))
    notes.put("another", Note(4, ""))
    assert notes.get("job") == Note(3, "")
    assert (notes.ids(), other.ids()) == (["another", "job"], [])
    notes.remove("job")
    notes.remove("job")
    assert notes.ids() == ["another"]
    assert os.listdir(tmp_path / "jobs") == ["another.note"]


def test_cached_values(tmp_path: Path) -> None:
    here, other = store(tmp_path), store(tmp_path)
    assert here.cached("job") is None
    here.put("job", Note(1, ""))
    assert here.cached("job") == Note(1, "")
    other.put("job", Note(2, ""))
    assert here.cached("job") == Note(1, "")
    assert here.get("job") == here.cached("job") == Note(2, "")
    here.put("job", Note(3, ""))
    assert here.cached("job") == Note(3, "")
    here.remove("job")
    assert here.cached("job") is None


def test_one_of_many_adds(tmp_path: Path) -> None:
    notes = store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: notes.add("job", Note(number, "")), range(50)))
    assert added.count(True) == 1
    assert notes.get("job") == Note(added.index(True), "")


@pytest.mark.parametrize("job_id", ["", "../job", "a/b", ".hidden", "\u0661", "x" * 300])
def test_ids_that_are_no_file_names(tmp_path: Path, job_id: str) -> None:
    notes = store(tmp_path)
    assert notes.get(job_id) is None
    notes.remove(job_id)
    with pytest.raises(ValueError, match="cannot be the id"):
        notes.add(job_id, Note(1, ""))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": 1}', '{"number": 1, "path": "", "more": 1}'])
def test_a_file_that_cannot_be_decoded(tmp_path: Path, text: str) -> None:
    (tmp_path / "job").write_text(text)
    with pytest.raises(BackendConfused):
        store(tmp_path).get("job")


def test_a_directory_that_is_gone_is_not_empty(tmp_path: Path) -> None:
    notes = store(tmp_path / "jobs")
    (tmp_path / "jobs").rmdir()
    for use in (
        notes.ids,
        lambda: notes.get("job"),
        lambda: notes.add("job", Note(1, "")),
        lambda: notes.put("job", Note(1, "")),
    ):
        with pytest.raises(BackendUnavailable):
            use()
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable):
        store(tmp_path / "file")


def test_a_private_store_is_not_shared_with_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError):
        NoteStore("dask", tmp_path, asdict, lambda data: Note(**data), private=True)
