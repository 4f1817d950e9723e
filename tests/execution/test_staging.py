"""Directories, links and manifest of an attempt, without a container."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from ccat_workflow_manager.errors import ConfigurationError, LeaseLost, StagingError
from ccat_workflow_manager.execution import staging
from ccat_workflow_manager.execution.launch_spec import (
    Progress,
    StepLaunch,
    UpstreamProduct,
    UpstreamProducts,
    no_progress,
)
from ccat_workflow_manager.execution.layout import attempt_dirs, group_id
from ccat_workflow_manager.execution.runtime import NO_RUNTIME
from ccat_workflow_manager.failures import FailureReason
from tests.execution.conftest import StepRunner

RUN = str(uuid4())
STEP = StepLaunch("p", RUN, "grid", "k", 1, ["true"])


def stage(step: StepLaunch, base: Path, progress: Progress = no_progress) -> staging.Staged:
    return staging.stage(step, base_dir=str(base), sif_cache_dir=str(base), runtime=NO_RUNTIME, progress=progress)


def upstream(base: Path, key: str, attempt: int = 1) -> UpstreamProducts:
    dirs = attempt_dirs(str(base), "p", RUN, "cal", key, attempt)
    os.makedirs(dirs.output)
    Path(dirs.output, "data").write_text(f"{key} {attempt}")
    return UpstreamProducts("cal", key, dirs.output)


def test_the_staged_directories(tmp_path: Path) -> None:
    staged = stage(replace(STEP, parameters={"a": 1}), tmp_path)
    assert staged.dirs.root == f"{tmp_path}/p/{RUN}/grid/k/attempt-1"
    expected = ["config", "input", "logs", "output.partial", "upstream", "workspace"]
    assert sorted(os.listdir(staged.dirs.root)) == expected
    assert os.listdir(staged.dirs.config) == ["manifest.json"]
    assert json.loads(Path(staged.dirs.manifest).read_text())["parameters"] == {"a": 1}
    assert staged.launch.vector == ["true"]
    assert staged.launch.environment["WORKFLOW_OUTPUT_DIR"] == staged.dirs.output_partial


def test_staging_again_changes_nothing_but_the_manifest(tmp_path: Path) -> None:
    first = stage(replace(STEP, upstream=[upstream(tmp_path, "k")]), tmp_path)
    Path(first.dirs.output_partial, "x").write_text("kept")
    again = stage(replace(STEP, upstream=[upstream(tmp_path, "k", 2)]), tmp_path)
    assert again.dirs == first.dirs
    assert Path(first.dirs.output_partial, "x").read_text() == "kept"
    assert Path(first.dirs.upstream, "cal/k/data").read_text() == "k 2"
    assert Path(first.dirs.workspace, "cal/data").read_text() == "k 2"


def test_a_program_without_a_container_can_walk_through_upstream(tmp_path: Path) -> None:
    source = upstream(tmp_path, "k")
    for name in ("science/map.fits", "cube.zarr/.zgroup", "qa/deep/er/x"):
        path = Path(source.directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    cube = UpstreamProduct(uuid4(), "cube", "SCIENCE", "cube.zarr", 1, "", is_directory=True)
    dirs = stage(replace(STEP, upstream=[replace(source, products=[cube])]), tmp_path).dirs
    walked = {
        os.path.relpath(os.path.join(where, name), dirs.upstream) for where, _, names in os.walk(dirs.upstream)
        for name in names
    }  # fmt: skip
    assert walked == {"cal/k/data", "cal/k/science/map.fits", "cal/k/qa/deep/er/x"}
    assert {path.name for path in Path(dirs.upstream).rglob("*") if path.is_file()} == {"data", "map.fits", "x"}
    assert [path.name for path in Path(dirs.upstream).rglob("*.zarr")] == ["cube.zarr"]
    assert Path(dirs.upstream, "cal/k/qa/deep/er/x").read_text() == "qa/deep/er/x"
    assert Path(dirs.upstream, "cal/k/cube.zarr/.zgroup").read_text() == "cube.zarr/.zgroup"


def test_files_of_an_upstream_attempt_that_was_repeated(tmp_path: Path) -> None:
    first = upstream(tmp_path, "k")
    Path(first.directory, "old").mkdir()
    Path(first.directory, "old", "x").touch()
    dirs = stage(replace(STEP, upstream=[first]), tmp_path).dirs
    stage(replace(STEP, upstream=[upstream(tmp_path, "k", 2)]), tmp_path)
    assert os.listdir(f"{dirs.upstream}/cal/k") == ["data"]


def test_the_directory_of_a_run_is_private(tmp_path: Path) -> None:
    run = Path(stage(STEP, tmp_path).dirs.run)
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert [path.name for path in run.parent.iterdir()] == [run.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may choose any group")
def test_a_group_may_read_the_directories_of_runs(tmp_path: Path) -> None:
    group = group_id("daemon")
    dirs = staging.stage(STEP, base_dir=str(tmp_path), sif_cache_dir="", runtime=NO_RUNTIME, group=group).dirs
    for path in (dirs.run, dirs.root, dirs.output_partial):
        assert os.stat(path).st_gid == group
    assert stat.S_IMODE(os.stat(dirs.run).st_mode) == 0o2750
    with pytest.raises(ConfigurationError):
        group_id("no-such-group")
    assert group_id("") is None


def test_attempts_share_nothing(tmp_path: Path) -> None:
    first, second = (stage(replace(STEP, attempt=number), tmp_path).dirs for number in (1, 2))
    assert os.path.dirname(first.root) == os.path.dirname(second.root)
    assert first.root != second.root


def test_the_tree_of_a_run_can_be_moved(tmp_path: Path) -> None:
    staged = stage(replace(STEP, upstream=[upstream(tmp_path, "k")]), tmp_path)
    moved = tmp_path / "moved"
    Path(staged.dirs.run).rename(moved)
    assert (moved / "grid/k/attempt-1/upstream/cal/k/data").read_text() == "k 1"


def test_progress_is_reported_during_a_wide_fan_in_and_may_stop_it(tmp_path: Path) -> None:
    sources = [upstream(tmp_path, f"k{index}") for index in range(600)]
    calls: list[int] = []
    stage(replace(STEP, upstream=sources), tmp_path, progress=lambda: calls.append(1))
    assert len(calls) == 2

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        stage(replace(STEP, attempt=2, upstream=sources), tmp_path, progress=lost)


def test_missing_upstream_products(tmp_path: Path) -> None:
    cube = UpstreamProduct(uuid4(), "cube", "SCIENCE", "cube.fits", 1, "")
    missing = UpstreamProducts("cal", "k", f"{tmp_path}/p/{RUN}/cal/k/attempt-1/output", [cube])
    elsewhere = UpstreamProducts("cal", "k", "/etc")
    for source in (missing, elsewhere):
        with pytest.raises(StagingError) as failed:
            stage(replace(STEP, upstream=[source]), tmp_path)
        assert failed.value.reason is FailureReason.INPUT_MISSING


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, FailureReason.DISK_FULL),
        (errno.EDQUOT, FailureReason.DISK_FULL),
        (errno.EIO, FailureReason.STAGING_FAILED),
    ],
)
def test_disk_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: FailureReason) -> None:
    def fail(path: str, mode: int = 0o777) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(StagingError) as failed:
        stage(STEP, tmp_path)
    assert failed.value.reason is reason
    assert str(tmp_path) in str(failed.value)


def test_a_base_directory_that_is_a_file(tmp_path: Path) -> None:
    base = tmp_path / "file"
    base.write_text("")
    with pytest.raises(StagingError) as failed:
        stage(STEP, base)
    assert failed.value.reason is FailureReason.STAGING_FAILED


@pytest.mark.needs("apptainer")
def test_a_missing_image_fails_before_any_directory_is_made(runner: StepRunner) -> None:
    with pytest.raises(StagingError) as failed:
        staging.stage(
            replace(STEP, image="nosuch.sif"),
            base_dir=str(runner.base),
            sif_cache_dir=str(runner.images),
            runtime=runner.runtime,
        )
    assert failed.value.reason is FailureReason.IMAGE_MISSING
    assert not runner.base.exists()


# --- files of the definition ------------------------------------------------------------------------------------------

SCRIPT = b'#!/bin/sh\necho "$1 from $0"\n'
FILES = {"bin/say": hashlib.sha256(SCRIPT).hexdigest()}


def test_files_of_a_definition_are_written_once_for_a_run(tmp_path: Path) -> None:
    reads: list[set[str]] = []

    def read(digests: Collection[str]) -> Mapping[str, bytes]:
        reads.append(set(digests))
        return dict.fromkeys(digests, SCRIPT)

    for key in ("a", "b"):
        step = replace(STEP, key=key, files=FILES, command=["/workflow/code/bin/say"])
        staged = staging.stage(
            step, base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME, read_files=read
        )
        assert staged.launch.vector == [f"{staged.dirs.code}/bin/say"]
        assert Path(staged.launch.environment["WORKFLOW_CODE_DIR"], "bin/say").read_bytes() == SCRIPT
        assert os.path.realpath(f"{staged.dirs.root}/code") == os.path.realpath(staged.dirs.code)
    assert reads == [set(FILES.values())]
    assert os.listdir(os.path.dirname(staged.dirs.code)) == [os.path.basename(staged.dirs.code)]


@pytest.mark.parametrize("stored", [{}, {FILES["bin/say"]: b"other"}], ids=["missing", "damaged"])
def test_a_file_without_its_checksum_stages_nothing(tmp_path: Path, stored: dict[str, bytes]) -> None:
    with pytest.raises(StagingError):
        staging.stage(
            replace(STEP, files=FILES),
            base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME, read_files=lambda digests: stored,
        )  # fmt: skip
    assert list(tmp_path.glob("p/*/.code/*")) == []


@pytest.mark.needs("apptainer")
def test_a_container_runs_a_file_but_cannot_change_it(runner: StepRunner) -> None:
    spoil = "/workflow/code/bin/say hello; echo x > /workflow/code/bin/say || echo x > /workflow/code/new"
    done = runner.run(["/bin/sh", "-c", spoil], files=FILES, contents={FILES["bin/say"]: SCRIPT})
    assert done.stdout == "hello from /workflow/code/bin/say\n"
    assert done.exit_code != 0
    assert Path(done.staged.dirs.code, "bin/say").read_bytes() == SCRIPT
