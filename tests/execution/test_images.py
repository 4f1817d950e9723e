"""Images by path and by reference, and names and files that are not images."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import ConfigurationError, JobDeferred, LeaseLost, StagingError
from ccat_workflow_manager.execution import runtime as runtimes
from ccat_workflow_manager.execution import sif
from ccat_workflow_manager.execution.images import resolve_image
from ccat_workflow_manager.execution.launch_spec import ResolvedImage
from ccat_workflow_manager.execution.runtime import NO_RUNTIME, Runtime, RuntimeKind
from ccat_workflow_manager.failures import FailureReason
from tests.support.waiting import wait_until

HEADER = (b"#!run\n".ljust(32, b"\0") + b"SIF_MAGIC\0").ljust(112, b"\0")
SMALL_SIF = HEADER + (128).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"data"
"""Its header declares 4 bytes of data from byte 128 on."""
FakeProgram = Callable[[str, str], Runtime]


def resolve(reference: str, cache: Path, runtime: Runtime = NO_RUNTIME, **more: Any) -> ResolvedImage:
    return resolve_image(reference, cache_dir=str(cache), runtime=runtime, **more)


def failure(reference: str, cache: Path, runtime: Runtime = NO_RUNTIME, **more: Any) -> FailureReason:
    with pytest.raises(StagingError) as failed:
        resolve(reference, cache, runtime, **more)
    return failed.value.reason


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    directory = tmp_path / "cache"
    directory.mkdir()
    (directory / "a.sif").write_bytes(SMALL_SIF)
    return directory


def test_by_name_and_by_path(cache: Path, tmp_path: Path) -> None:
    assert resolve("a.sif", cache).path == f"{cache}/a.sif"
    assert resolve(f"{cache}/a.sif", tmp_path).path == f"{cache}/a.sif"
    assert resolve("cache/a.sif", tmp_path).path == f"{cache}/a.sif"


def test_a_mistyped_name_brings_the_one_that_was_meant(cache: Path) -> None:
    (cache / "chai-calibration.sif").touch()
    with pytest.raises(StagingError, match=r"did you mean chai-calibration\.sif"):
        resolve("chai-calibraton.sif", cache)
    with pytest.raises(StagingError, match=r"nosuch.sif in \S+$"):
        resolve("nosuch.sif", cache / "nothing")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nosuch.sif", FailureReason.IMAGE_MISSING),
        ("/nosuch/a.sif", FailureReason.IMAGE_MISSING),
        ("../cache/a.sif", FailureReason.IMAGE_INVALID),
        ("/tmp/../etc/passwd", FailureReason.IMAGE_INVALID),
        ("/", FailureReason.IMAGE_INVALID),
        ("/etc", FailureReason.IMAGE_INVALID),
        ("/etc/passwd", FailureReason.IMAGE_INVALID),
        ("/dev/zero", FailureReason.IMAGE_INVALID),
        ("http://example.org/a.sif", FailureReason.IMAGE_INVALID),
        ("instance://x", FailureReason.IMAGE_INVALID),
        ("docker://", FailureReason.IMAGE_INVALID),
        ("docker://--help", FailureReason.IMAGE_INVALID),
        ("docker://a b", FailureReason.IMAGE_INVALID),
        ("docker://a/../../b", FailureReason.IMAGE_INVALID),
        ("", FailureReason.IMAGE_INVALID),
        ("a\0.sif", FailureReason.IMAGE_INVALID),
        ("x" * 5000, FailureReason.IMAGE_INVALID),
        ("a@sha256:12", FailureReason.IMAGE_INVALID),
        (f"a b@sha256:{'0' * 64}", FailureReason.IMAGE_INVALID),
    ],
)
def test_names_that_are_not_images(cache: Path, reference: str, reason: FailureReason) -> None:
    assert failure(reference, cache) is reason


@pytest.mark.parametrize("content", [b"", b"hello" * 100, SMALL_SIF[:-1], SMALL_SIF[:120], SMALL_SIF[:40]])
def test_truncated_and_other_files(cache: Path, content: bytes) -> None:
    (cache / "bad.sif").write_bytes(content)
    assert failure("bad.sif", cache) is FailureReason.IMAGE_INVALID


def test_a_pipe_does_not_hang_the_worker(cache: Path) -> None:
    os.mkfifo(cache / "pipe.sif")
    assert failure("pipe.sif", cache) is FailureReason.IMAGE_INVALID


def test_a_directory_is_an_image_only_in_an_image_directory(cache: Path, tmp_path: Path) -> None:
    (cache / "sandbox").mkdir()
    (cache / "out").symlink_to("/etc")
    assert resolve("sandbox", cache).path == f"{cache}/sandbox"
    assert failure("out", cache) is FailureReason.IMAGE_INVALID
    assert failure(str(tmp_path), cache) is FailureReason.IMAGE_INVALID


def test_a_pinned_image_is_checked_against_its_digest_and_again_when_it_changes(cache: Path) -> None:
    digest = f"sha256:{hashlib.sha256(SMALL_SIF).hexdigest()}"
    assert resolve(f"a.sif@{digest}", cache).digest == digest
    assert failure(f"a.sif@sha256:{'0' * 64}", cache) is FailureReason.IMAGE_INVALID
    (cache / "a.sif").write_bytes(SMALL_SIF + b"!")
    assert failure(f"a.sif@{digest}", cache) is FailureReason.IMAGE_INVALID


def test_an_unchanged_file_is_read_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve("a.sif", cache)
    monkeypatch.setattr(sif, "_MAGIC", b"something else")
    assert resolve("a.sif", cache).path == f"{cache}/a.sif"
    (cache / "a.sif").write_bytes(SMALL_SIF + b"!")
    assert failure("a.sif", cache) is FailureReason.IMAGE_INVALID


@pytest.mark.needs("apptainer")
def test_a_real_image(images: Path, runtime: Runtime, tmp_path: Path) -> None:
    assert resolve("tools.sif", images, runtime).path == f"{images}/tools.sif"
    whole = (images / "tools.sif").read_bytes()
    (tmp_path / "cut.sif").write_bytes(whole[:-1])
    assert failure("cut.sif", tmp_path, runtime) is FailureReason.IMAGE_INVALID


# --- pulls, with a script in place of the runtime, because tests reach no registry ------------------------------------

PULL = 'echo "$@" >> {log}\n[ "$1 $2 $3" = "pull --force --name" ] || exit 9\ncp {image} "$4"'


@pytest.fixture
def registry(tmp_path: Path, fake_program: FakeProgram) -> tuple[Runtime, Path]:
    (tmp_path / "in-registry.sif").write_bytes(SMALL_SIF)
    log = tmp_path / "calls.log"
    return fake_program("apptainer", PULL.format(log=log, image=tmp_path / "in-registry.sif")), log


def test_a_fake_pull_happens_once(cache: Path, registry: tuple[Runtime, Path]) -> None:
    runtime, log = registry
    first = resolve("docker://example.org/chai:1", cache, runtime)
    assert first.digest == f"sha256:{hashlib.sha256(SMALL_SIF).hexdigest()}"
    assert first.path == f"{cache}/{(first.digest or '').replace(':', '-')}.sif"
    assert resolve("docker://example.org/chai:1", cache, runtime) == first
    assert len(log.read_text().splitlines()) == 1
    other = resolve("oras://example.org/chai:2", cache, runtime)
    assert other.path == first.path
    assert sorted(name for name in os.listdir(cache) if name != "references") == ["a.sif", os.path.basename(first.path)]


def test_a_fake_pull_of_an_image_that_was_removed_from_the_cache(cache: Path, registry: tuple[Runtime, Path]) -> None:
    runtime, log = registry
    Path(resolve("docker://chai", cache, runtime).path).unlink()
    assert Path(resolve("docker://chai", cache, runtime).path).exists()
    assert len(log.read_text().splitlines()) == 2


def test_fake_pulls_at_the_same_time_are_one(cache: Path, registry: tuple[Runtime, Path]) -> None:
    runtime, log = registry

    def ask(_: int) -> str:
        try:
            return resolve("docker://same", cache, runtime).reference or ""
        except JobDeferred as error:
            return error.message

    with ThreadPoolExecutor(8) as pool:
        assert all("docker://same" in told for told in pool.map(ask, range(8)))
    assert len(log.read_text().splitlines()) == 1


def test_a_name_pinned_by_digest_is_a_registry_reference(cache: Path, registry: tuple[Runtime, Path]) -> None:
    runtime, log = registry
    reference = f"example.org/chai@sha256:{'a' * 64}"
    resolve(reference, cache, runtime)
    assert log.read_text().split()[-1] == f"docker://{reference}"
    assert failure(f"chai.sif@sha256:{'a' * 64}", cache, runtime) is FailureReason.IMAGE_MISSING


def test_a_fake_pull_that_fails_says_why(cache: Path, fake_program: FakeProgram) -> None:
    runtime = fake_program("apptainer", "echo 'FATAL: no such manifest' >&2; exit 255")
    with pytest.raises(StagingError, match="no such manifest") as failed:
        resolve("docker://chai", cache, runtime)
    assert failed.value.reason is FailureReason.IMAGE_PULL
    assert [path.suffix for path in (cache / "references").iterdir()] == [".lock"]


def test_a_fake_pull_that_leaves_no_image(cache: Path, fake_program: FakeProgram) -> None:
    assert failure("docker://chai", cache, fake_program("apptainer", 'echo x > "$4"')) is FailureReason.IMAGE_INVALID
    assert failure("docker://chai", cache, fake_program("apptainer", "exit 0")) is FailureReason.IMAGE_PULL


def test_a_fake_pull_that_takes_long_is_waited_for_elsewhere(
    cache: Path, tmp_path: Path, fake_program: FakeProgram
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    runtime = fake_program("apptainer", f'read x < {gate}\ncp {cache}/a.sif "$4"')

    def lost() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        resolve("docker://slow", cache, runtime, progress=lost)
    with pytest.raises(JobDeferred, match="docker://slow"):
        resolve("docker://slow", cache, runtime)
    gate.write_text("go\n")
    pulls = [thread for thread in threading.enumerate() if thread.name == "pull docker://slow"]
    wait_until(lambda: not any(thread.is_alive() for thread in pulls), what="the end of the pull")
    assert resolve("docker://slow", cache, runtime).digest is not None


def test_a_fake_pull_that_another_process_does(cache: Path, registry: tuple[Runtime, Path]) -> None:
    runtime, log = registry
    resolve("docker://same", cache, runtime)
    [lock] = (cache / "references").glob("*.lock")
    (cache / os.path.basename(resolve("docker://same", cache, runtime).path)).unlink()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(JobDeferred, match="another worker"):
            resolve("docker://same", cache, runtime)
    assert len(log.read_text().splitlines()) == 1


def test_a_fake_pull_that_hangs_is_killed(cache: Path, tmp_path: Path, fake_program: FakeProgram) -> None:
    runtime = fake_program("apptainer", f"echo $$ > {tmp_path}/pid\nexec sleep 1000")
    with pytest.raises(StagingError, match="IMAGE_PULL_SECONDS") as failed:
        resolve("docker://hangs", cache, runtime, pull_timeout=3)
    assert failed.value.reason is FailureReason.IMAGE_PULL
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- runtimes ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs("apptainer")
def test_the_real_runtime(runtime: Runtime) -> None:
    assert runtime.kind is RuntimeKind.APPTAINER
    assert runtime.version[0].isdigit()
    assert os.path.isabs(runtime.program)


def test_a_runtime_is_identified_by_its_version_text(fake_program: FakeProgram, tmp_path: Path) -> None:
    fake_program("singularity", "echo apptainer version 1.3.6")
    assert runtimes.detect("auto", search_path=str(tmp_path / "bin")).kind is RuntimeKind.APPTAINER
    fake_program("apptainer", "echo singularity-ce version 4.1.0")
    found = runtimes.detect("apptainer", search_path=str(tmp_path / "bin"))
    assert (found.kind, found.version) == (RuntimeKind.SINGULARITY, "4.1.0")


def test_without_any_runtime(tmp_path: Path, fake_program: FakeProgram) -> None:
    nowhere = str(tmp_path)
    assert runtimes.detect("none") is NO_RUNTIME
    assert runtimes.detect("auto", allow_none=True, search_path=nowhere) is NO_RUNTIME
    for setting in ("auto", "apptainer", "singularity", "docker"):
        with pytest.raises(ConfigurationError, match="CONTAINER_RUNTIME"):
            runtimes.detect(setting, search_path=nowhere)
    fake_program("apptainer", "echo broken >&2; exit 1")
    with pytest.raises(ConfigurationError, match="broken"):
        runtimes.detect("auto", search_path=str(tmp_path / "bin"))
