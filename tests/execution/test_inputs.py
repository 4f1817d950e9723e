"""Inputs of a step run: found, checked, laid out, and what a program sees of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.definition.inputs import WantedInput
from ccat_workflow_manager.errors import JobDeferred, LeaseLost, StagingError
from ccat_workflow_manager.execution import checksums, command_builder
from ccat_workflow_manager.execution.globbing import TooManyNames, expand
from ccat_workflow_manager.execution.inputs import InputLimits, find_inputs
from ccat_workflow_manager.execution.launch_spec import Input, Progress, no_progress
from ccat_workflow_manager.failures import FailureReason
from tests.execution.conftest import StepRunner
from tests.support.inputs import no_fetch
from tests.support.waiting import wait_for

LIMITS = InputLimits(max_files=10, max_entries=100)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    directory = tmp_path / "raw"
    directory.mkdir()
    for number in (1, 2, 3):
        (directory / f"scan_{number}.fits").write_text(f"scan {number}")
    return directory


def find(
    *sources: str,
    roots: Sequence[Path | str] = (),
    known: Sequence[Input] | None = None,
    limits: InputLimits = LIMITS,
    to: str | None = None,
    progress: Progress = no_progress,
) -> list[Input]:
    wanted = [WantedInput(source, to, "*" in source) for source in sources]
    where = InputRoots.of(map(str, roots), free=True)
    return find_inputs(wanted, where, limits, known=known, fetch=no_fetch, progress=progress)


def failure(*sources: str, **more: Any) -> tuple[FailureReason, str]:
    with pytest.raises(StagingError) as failed:
        find(*sources, **more)
    return failed.value.reason, failed.value.message


def test_a_file_has_its_size_and_checksum(raw: Path) -> None:
    [found] = find(f"{raw}/scan_1.fits", to="raw.fits")
    assert found == Input(
        "raw.fits", f"{raw}/scan_1.fits", f"{raw}/scan_1.fits", 6, sha256(b"scan 1").hexdigest(), False, 1
    )


def test_a_pattern_is_its_matches_in_order(raw: Path) -> None:
    (raw / ".hidden.fits").touch()
    found = find(f"{raw}/*.fits")
    assert [each.name for each in found] == ["scan_1.fits", "scan_2.fits", "scan_3.fits"]


def test_a_directory_is_one_input(raw: Path) -> None:
    (raw / "deep").mkdir()
    (raw / "deep" / "x").write_text("12")
    [found] = find(str(raw))
    assert (found.name, found.is_directory, found.size, found.file_count) == ("raw", True, 20, 4)
    assert find(str(raw)) == [found]
    (raw / "deep" / "x").write_text("123")
    assert find(str(raw)) != [found]


def test_what_an_earlier_attempt_read_is_looked_at_again_and_nothing_else(raw: Path) -> None:
    known = find(f"{raw}/*.fits")
    (raw / "scan_4.fits").touch()
    assert find(f"{raw}/*.fits", known=known) == known
    about = (raw / "scan_2.fits").stat()
    (raw / "scan_2.fits").write_text("SCAN 2")
    os.utime(raw / "scan_2.fits", ns=(about.st_atime_ns, about.st_mtime_ns))
    reason, message = failure(f"{raw}/*.fits", known=known)
    assert reason is FailureReason.INPUT_CHANGED
    assert f"{raw}/scan_2.fits" in message
    (raw / "scan_2.fits").unlink()
    assert failure(f"{raw}/*.fits", known=known)[0] is FailureReason.INPUT_MISSING


def test_missing(raw: Path) -> None:
    for source in (f"{raw}/none.fits", f"{raw}/*.none", f"{raw}/scan_1.fits/x"):
        reason, message = failure(source)
        assert reason is FailureReason.INPUT_MISSING
        assert source in message


def test_links_are_followed_inside_the_roots_only(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (raw / "in").symlink_to("scan_1.fits")
    (raw / "out").symlink_to(tmp_path / "secret")
    (raw / "nowhere").symlink_to("gone")
    assert find(f"{raw}/in", roots=[raw])[0].path == f"{raw}/scan_1.fits"
    reason, message = failure(f"{raw}/out", roots=[raw])
    assert reason is FailureReason.INPUT_REFUSED
    assert f"{tmp_path}/secret" in message
    assert failure(f"{raw}/nowhere", roots=[raw])[0] is FailureReason.INPUT_MISSING
    assert failure(str(raw), roots=[raw])[0] is FailureReason.INPUT_REFUSED
    assert failure(f"{tmp_path}/secret", roots=[raw])[0] is FailureReason.INPUT_REFUSED


def test_a_root_may_be_a_link_itself(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(raw)
    [found] = find(f"{tmp_path}/linked/scan_1.fits", roots=[tmp_path / "linked"])
    assert found.path == f"{raw}/scan_1.fits"


def test_a_link_that_is_put_into_the_path_meanwhile(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check of the path and its opening, its directory becomes a link out of the root."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scan_1.fits").write_text("secret")
    inner = raw / "inner"
    inner.mkdir()
    (inner / "scan_1.fits").write_text("scan 1")
    real_stat = os.stat

    def swap(path: Any, **more: Any) -> os.stat_result:
        about = real_stat(path, **more)
        if path == f"{inner}/scan_1.fits" and not inner.is_symlink():
            inner.rename(raw / "moved")
            inner.symlink_to(tmp_path / "other")
        return about

    monkeypatch.setattr(os, "stat", swap)
    assert failure(f"{inner}/scan_1.fits", roots=[raw])[0] is FailureReason.INPUT_CHANGED


def test_too_many(raw: Path) -> None:
    for number in range(9):
        (raw / f"more_{number}.fits").touch()
    assert failure(f"{raw}/*.fits")[0] is FailureReason.INPUT_REFUSED
    assert "INPUT_MAX_FILES" in failure(f"{raw}/*_1.fits", f"{raw}/more_*.fits")[1]
    assert "INPUT_MAX_ENTRIES" in failure(str(raw), limits=InputLimits(10, 11))[1]
    assert "INPUT_MAX_ENTRIES" in failure(f"{raw}/*.x", limits=InputLimits(10, 11))[1]


def test_two_with_one_name(raw: Path) -> None:
    (raw / "again").mkdir()
    (raw / "again" / "scan_1.fits").touch()
    reason, message = failure(f"{raw}/scan_1.fits", f"{raw}/again/*.fits")
    assert reason is FailureReason.INPUT_REFUSED
    assert "scan_1.fits" in message


def test_a_large_file_is_read_in_the_background_once(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_INLINE_BYTES", 1)
    source = f"{raw}/scan_3.fits"

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        find(source, progress=lost)

    def found() -> list[Input] | None:
        try:
            return find(source)
        except JobDeferred:
            return None

    assert wait_for(found)[0].sha256 == sha256(b"scan 3").hexdigest()


# --- patterns ---------------------------------------------------------------------------------------------------------


def test_patterns(tmp_path: Path) -> None:
    for name in ("a/x.fits", "a/b/x.fits", "a/b/y.txt", ".h/x.fits", "[a]/x.fits"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)

    def names(pattern: str) -> list[str]:
        found = expand(f"{tmp_path}/{pattern}", most=100, most_names=1000)
        return [path[len(str(tmp_path)) + 1 :] for path in found]

    assert names("*/x.fits") == ["[a]/x.fits", "a/x.fits"]
    assert names("**/*.fits") == ["[a]/x.fits", "a/b/x.fits", "a/x.fits"]
    assert names("a/[b-c]/?.*") == ["a/b/x.fits", "a/b/y.txt"]
    assert names("[[]a]/*") == ["[a]/x.fits"]
    assert names(".h/*") == [".h/x.fits"]
    assert names("nothing/*") == names("a/x.fits/*") == []
    with pytest.raises(TooManyNames):
        expand(f"{tmp_path}/**", most=100, most_names=3)
    with pytest.raises(TooManyNames):
        expand(f"{tmp_path}/**", most=1, most_names=100)


# --- what the program sees --------------------------------------------------------------------------------------------

SHOW = 'cd "$WORKFLOW_INPUT_DIR"; for f in scan_*.fits tree/deep/x; do echo "$f $(cat "$f")"; done'


def inputs(raw: Path) -> list[Input]:
    (raw / "deep").mkdir(exist_ok=True)
    (raw / "deep" / "x").write_text("deep")
    return [*find(f"{raw}/*.fits"), *find(str(raw), to="tree")]


EXPECTED = "scan_1.fits scan 1\nscan_2.fits scan 2\nscan_3.fits scan 3\ntree/deep/x deep\n"


def test_a_program_without_a_container(bare_runner: StepRunner, raw: Path) -> None:
    ended = bare_runner.run(["sh", "-c", SHOW], inputs=inputs(raw))
    assert (ended.exit_code, ended.stdout) == (0, EXPECTED), ended.stderr
    manifest = json.loads(Path(ended.staged.dirs.manifest).read_text())
    assert [each["path"] for each in manifest["inputs"]][-1] == f"{ended.staged.dirs.input}/tree"
    assert manifest["inputs"][0]["sha256"] == sha256(b"scan 1").hexdigest()


@pytest.mark.needs("apptainer")
@pytest.mark.parametrize("most_mounts", [64, 1], ids=["mounts", "links"])
def test_a_program_in_a_container(
    runner: StepRunner, raw: Path, most_mounts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_builder, "MOST_INPUT_MOUNTS", most_mounts)
    ended = runner.run(["sh", "-c", f"{SHOW}; echo x > scan_1.fits || touch new || touch tree/new"], inputs=inputs(raw))
    assert ended.stdout == EXPECTED, ended.stderr
    assert ended.exit_code != 0
    assert sorted(path.name for path in raw.iterdir()) == ["deep", "scan_1.fits", "scan_2.fits", "scan_3.fits"]
    assert (raw / "scan_1.fits").read_text() == "scan 1"


def test_an_interrupted_try_leaves_nothing_that_is_not_wanted(bare_runner: StepRunner, raw: Path) -> None:
    found = inputs(raw)
    staged = bare_runner.stage(["true"], run_id="r", inputs=found)
    again = bare_runner.stage(["true"], run_id="r", inputs=found[:1])
    assert os.listdir(again.dirs.input) == [found[0].name]
    assert staged.dirs == again.dirs
