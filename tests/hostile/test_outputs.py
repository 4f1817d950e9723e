"""Outputs that cost more than they are worth are refused, with the path, the limit and the setting that raises it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.launch_spec import StepLaunch
from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.execution.output_limits import OutputLimits
from ccat_workflow_manager.execution.outputs import collect
from ccat_workflow_manager.execution.runtime import NO_RUNTIME
from ccat_workflow_manager.execution.staging import stage
from ccat_workflow_manager.failures import FailureReason

SMALL = OutputLimits(
    max_files=10, max_entries=50, limit_gb=0.01, sparse_gb=0.001, limit_seconds=60, metadata_kb=1, max_parents=3
)


@pytest.fixture
def dirs(tmp_path: Path) -> AttemptDirs:
    step = StepLaunch("p", str(uuid4()), "grid", "k", 1, ["true"])
    return stage(step, base_dir=str(tmp_path), sif_cache_dir=str(tmp_path), runtime=NO_RUNTIME).dirs


def _huge(output: Path) -> None:
    with (output / "void.fits").open("wb") as file:
        file.truncate(8 * 1024**4)


def _many_files(output: Path) -> None:
    for number in range(12):
        (output / f"d{number}").mkdir()
        (output / f"d{number}" / "x").touch()


def _many_directories(output: Path) -> None:
    for number in range(60):
        (output / f"d{number}").mkdir()


def _large_tree(output: Path) -> None:
    (output / "cube.zarr").mkdir()
    for number in range(60):
        (output / "cube.zarr" / str(number)).touch()


def _bytes(output: Path) -> None:
    for name in "abc":
        (output / name).write_bytes(os.urandom(4 * 1024**2))


def _long_path(output: Path) -> None:
    here = output
    for _ in range(6):
        here /= "n" * 200
    here.mkdir(parents=True)
    (here / "file").touch()


def _long_name(output: Path) -> None:
    (output / "x").touch()
    (output / "products.json").write_text('[{"path": "x", "name": "%s"}]' % ("\u00e9" * 600))


def _metadata(output: Path) -> None:
    (output / "x").touch()
    (output / "products.json").write_text('[{"path": "x", "metadata": {"a": "%s"}}]' % ("a" * 2000))


def _link_target(output: Path) -> None:
    (output / "cube.zarr").mkdir()
    os.symlink(b"caf\xe9", os.fsencode(output / "cube.zarr" / "link"))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file of nothing": (_huge, r"void\.fits: .*OUTPUT_SPARSE_GB"),
    "files spread over directories": (_many_files, r"OUTPUT_MAX_FILES"),
    "empty directories": (_many_directories, r"OUTPUT_MAX_ENTRIES"),
    "a tree of many files": (_large_tree, r"cube\.zarr/.*OUTPUT_MAX_ENTRIES"),
    "many bytes": (_bytes, r"c: .*OUTPUT_LIMIT_GB"),
    "a path that no index takes": (_long_path, r"1024 bytes"),
    "a name that no index takes": (_long_name, r"products\.json\[0\]\.name .*1024 bytes"),
    "metadata": (_metadata, r"products\.json\[0\]\.metadata .*OUTPUT_METADATA_KB"),
    "a link to a name that is not UTF-8": (_link_target, r"cube\.zarr/link .*caf\\xe9.* not UTF-8"),
}


@pytest.mark.parametrize(("leave", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_an_output_beyond_its_limits(dirs: AttemptDirs, leave: Callable[[Path], None], reason: str) -> None:
    leave(Path(dirs.output_partial))
    with pytest.raises(OutputError, match=reason) as refused:
        collect(dirs, limits=SMALL)
    assert refused.value.reason is FailureReason.OUTPUT_INVALID


def test_an_output_that_takes_too_long(dirs: AttemptDirs) -> None:
    (Path(dirs.output_partial) / "x").write_bytes(b"x" * 9 * 1024**2)
    with pytest.raises(OutputError, match=r"x: .*OUTPUT_LIMIT_SECONDS"):
        collect(dirs, limits=OutputLimits(limit_seconds=1e-9))


def test_a_file_that_never_ends(dirs: AttemptDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was left behind appends faster than the worker reads."""
    (Path(dirs.output_partial) / "x").write_bytes(b"x" * 100)
    monkeypatch.setattr(os, "read", lambda file, size: b"y" * size)
    with pytest.raises(OutputError, match="still being written"):
        collect(dirs)
