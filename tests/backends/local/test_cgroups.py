"""Control groups of version 2, on a directory that looks like them, because not every machine has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.supervisor import cgroups
from ccat_workflow_manager.hpc.supervisor.cgroups import V1, V2, Group, Groups, Version

V2_FILES = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.oom.group": "0\n",
    "memory.peak": "5000000\n",
    "memory.current": "4000000\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 0\n",
}
V1_FILES = {
    "cgroup.procs": "",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.max_usage_in_bytes": "5000000\n",
    "memory.usage_in_bytes": "4096\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Version], Path]:
    """A made-up control group tree: a new directory has the files that the kernel would put into it."""

    def make(version: Version) -> Path:
        files = V2_FILES if version is V2 else V1_FILES
        real = os.mkdir

        def mkdir(path: str | Path, mode: int = 0o777) -> None:
            real(path, mode)
            for name, text in files.items():
                (Path(path) / name).write_text(text)

        monkeypatch.setattr(os, "mkdir", mkdir)
        own = tmp_path / "own"
        own.mkdir()
        kind = ("cgroup2", ["rw"]) if version is V2 else ("cgroup", ["rw", "memory"])
        monkeypatch.setattr(cgroups, "_mounts", lambda: [(*kind, str(tmp_path))])
        memberships = {"": "/own"} if version is V2 else {"memory": "/own", "": "/"}
        monkeypatch.setattr(cgroups, "_memberships", lambda pid: memberships)
        return tmp_path

    return make


def test_version_2(mount: Callable[[Version], Path]) -> None:
    root = mount(V2)
    groups = cgroups.detect("ccat")
    assert groups is not None
    assert (groups.version, groups.base) == (V2, f"{root}/own/ccat")
    assert (root / "own" / "cgroup.subtree_control").read_text() == "+memory"
    assert (root / "own" / "ccat" / "cgroup.subtree_control").read_text() == "+memory"
    group = groups.acquire(64 << 20)
    assert group is not None
    path = Path(group.path)
    assert _written(path / "memory.max") == str(64 << 20)
    assert _written(path / "memory.swap.max") == "0"
    assert _written(path / "memory.oom.group") == "1"
    assert (group.peak(), group.usage(), group.members(), group.oom_killed()) == (5000000, 4000000, [], False)
    (path / "cgroup.procs").write_text("12\n34\n")
    (path / "memory.events").write_text("oom 1\noom_kill 1\n")
    (path / "memory.peak").unlink()
    assert (group.peak(), group.members(), group.oom_killed()) == (None, [12, 34], True)
    groups.release(group)
    another = groups.acquire(64 << 20)
    assert another is not None
    assert another.path != group.path


def test_version_1_is_used_again_unless_something_is_left(mount: Callable[[Version], Path]) -> None:
    mount(V1)
    groups = cgroups.detect("ccat")
    assert groups is not None
    assert groups.version is V1
    first = groups.acquire(64 << 20)
    assert first is not None
    groups.release(first)
    second = groups.acquire(32 << 20)
    assert second is first
    assert _written(Path(first.path) / "memory.limit_in_bytes") == str(32 << 20)
    (Path(first.path) / "memory.usage_in_bytes").write_text("5000000\n")
    groups.release(first)
    third = groups.acquire(32 << 20)
    assert third is not None
    assert third is not first
    third.tainted = True
    groups.release(third)
    assert groups.acquire(32 << 20) is not third


def test_without_the_controller_there_are_none(mount: Callable[[Version], Path]) -> None:
    root = mount(V2)
    for directory in (root, root / "own"):
        control = directory / "cgroup.subtree_control"
        control.unlink(missing_ok=True)
        control.mkdir()
    assert cgroups.detect("ccat") is None


def test_a_group_that_cannot_be_limited_is_none(
    mount: Callable[[Version], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = mount(V2)
    groups = Groups(str(root), f"{root}/base", V2)

    def refuse(group: Group, limit: int) -> None:
        raise PermissionError

    monkeypatch.setattr(Group, "limit", refuse)
    assert groups.acquire(1 << 20) is None


def _written(path: Path) -> str:
    return path.read_text().strip()
