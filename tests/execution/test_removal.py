"""Removing directories: any depth, any permissions, nothing outside."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ccat_workflow_manager.execution.removal import OutOfTime, directory, remove

FAR = 1e9


def remove_below(parent: Path, name: str, deadline: float = FAR) -> None:
    with directory(str(parent)) as opened:
        assert opened is not None
        remove(opened, name, time.monotonic() + deadline, lambda: None)


def test_a_tree_that_is_too_deep_for_recursion(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    here = os.open(tmp_path / "run", os.O_RDONLY)
    for number in range(1100):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(os.open("f", os.O_CREAT, dir_fd=inner))
        os.mkdir(f"side-{number}", dir_fd=inner)
        os.close(here)
        here = inner
    os.close(here)
    remove_below(tmp_path, "run")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    run = tmp_path / "base" / "run"
    run.mkdir(parents=True)
    (run / "out").symlink_to(kept)
    (run / "broken").symlink_to("nowhere")
    (run / ".removed-0").mkdir()
    (run / ".removed-0" / "link").symlink_to(kept / "file")
    remove_below(tmp_path / "base", "run")
    (tmp_path / "base" / "run").symlink_to(kept)
    remove_below(tmp_path / "base", "run")
    assert list((tmp_path / "base").iterdir()) == []
    assert (kept / "file").exists()
    (tmp_path / "base" / "pipeline").symlink_to(kept)
    with pytest.raises(OSError, match="pipeline"), directory(str(tmp_path / "base"), "pipeline"):
        pass


def test_directories_without_permissions(tmp_path: Path) -> None:
    locked = tmp_path / "run" / "a" / "b"
    locked.mkdir(parents=True)
    (locked / "file").write_text("")
    for path in (locked, locked.parent, locked.parent.parent):
        path.chmod(0)
    remove_below(tmp_path, "run")
    assert list(tmp_path.iterdir()) == []


def test_a_removal_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / "run" / f"{number}" / "x").mkdir(parents=True)
    with pytest.raises(OutOfTime):
        remove_below(tmp_path, "run", -1)
    assert not (tmp_path / "run").exists()  # it moved away at once
    remove_below(tmp_path, "run")
    assert list(tmp_path.iterdir()) == []
    remove_below(tmp_path, "run")
    with directory(str(tmp_path), "not there") as opened:
        assert opened is None
