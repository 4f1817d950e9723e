"""What a hostile archive can make in the directory of its attempt."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.aws_batch.unpack import FAULTS, TooLarge, unpack

NAMES = ("output", "logs")


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, target, size, 0o6777
    return info


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


def hard_link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.LNKTYPE, target)


def directory(name: str) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The directory of an attempt; a file beside it must stay as it is."""
    (tmp_path / "outside").write_text("mine")
    found = tmp_path / "attempt"
    found.mkdir()
    return found


def unpacked(target: Path, *entries: tarfile.TarInfo, limit: float = 10**6) -> set[str]:
    """The paths of all that is not a directory."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for each in entries:
            tar.addfile(each, io.BytesIO(bytes(each.size)))
    data.seek(0)
    unpack(data, str(target), NAMES, limit)
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_symlink() or path.is_file()}


def test_files_directories_and_links(target: Path) -> None:
    found = unpacked(
        target,
        directory("output/a"),
        entry("output/a/file", size=3),
        link("output/same", "a/file"),
        link("output/a/up", "../same"),
        hard_link("output/twin", "output/a/file"),
        entry("./logs/stdout.log"),
    )
    assert found == {"output/a/file", "output/same", "output/a/up", "output/twin", "logs/stdout.log"}
    assert (target / "output/a/up").resolve() == target / "output/a/file"
    assert (target / "output/a/file").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "bad",
    [
        entry("../outside"),
        entry("/output/absolute"),
        entry("output/../../outside"),
        entry("claim"),
        entry("output/fifo", tarfile.FIFOTYPE),
        entry("output/device", tarfile.CHRTYPE),
        link("output/link", "/etc"),
        link("output/link", "../../outside"),
        link("output/link", "here/../../outside"),
        hard_link("output/link", "../outside"),
        hard_link("output/link", "/etc/passwd"),
    ],
    ids=lambda each: f"{each.name} {each.linkname}",
)
def test_what_leads_out_or_is_no_file_is_left_out(target: Path, bad: tarfile.TarInfo) -> None:
    assert unpacked(target, bad, entry("output/good")) == {"output/good"}
    assert (target.parent / "outside").read_text() == "mine"


@pytest.mark.parametrize(
    "entries",
    [
        [directory("output/a"), link("output/way", "a"), entry("output/way/file")],
        [entry("output/file"), entry("output/file/below")],
        [hard_link("output/twin", "output/missing")],
    ],
    ids=["through a link", "through a file", "a link to nothing"],
)
def test_an_archive_that_cannot_be_unpacked(target: Path, entries: list[tarfile.TarInfo]) -> None:
    with pytest.raises(FAULTS):
        unpacked(target, *entries)


def test_a_link_that_is_there_already_is_not_followed(target: Path) -> None:
    """As after an unpacking that was interrupted."""
    (target / "output").mkdir()
    os.symlink(target.parent / "outside", target / "output" / "file")
    assert unpacked(target, entry("output/file", size=3)) == {"output/file"}
    assert not (target / "output" / "file").is_symlink()
    assert (target.parent / "outside").read_text() == "mine"


@pytest.mark.parametrize(
    "entries",
    [[entry("output/large", size=2 * 10**6)], [directory(f"output/{n}") for n in range(300)]],
    ids=["large", "many"],
)
def test_the_budget(target: Path, entries: list[tarfile.TarInfo]) -> None:
    with pytest.raises(TooLarge):
        unpacked(target, *entries)
