"""The claim: one owner, whether it is taken by Python or by a shell."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from threading import Barrier

import pytest

from ccat_workflow_manager.hpc.attempt import claim
from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, NOT_WRITABLE, Claim
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from tests.support.waiting import PATIENCE

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
RACERS = 8


@pytest.fixture
def files(tmp_path: Path) -> AttemptFiles:
    return AttemptFiles.of(str(tmp_path / "workspace"), "job")


def taken_by_shell(files: AttemptFiles, owner: str, shell: str = "sh", again: str | None = None) -> int:
    text = f"me={quote(owner)}\n{claim.sh_take(quote(files.claim), again=again)}exit 0\n"
    argv = ["busybox", "sh"] if shell == "busybox" else [shell]
    return subprocess.run(
        [*argv, "-c", text], env={}, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False
    ).returncode


def owner_of(files: AttemptFiles) -> str:
    found = claim.read(files)
    assert found is not None
    return found.owner


def test_the_first_owner_keeps_it(files: AttemptFiles) -> None:
    assert claim.read(files) is None
    assert claim.take(files, "first")
    assert not claim.take(files, "second")
    found = claim.read(files)
    assert found is not None
    assert (found.owner, found.blocked, found.alive(found.touched)) == ("first", None, True)
    assert abs(found.at - found.touched) < 5
    assert not claim.block(files, "cancelled")


def test_a_blocked_attempt_never_starts(files: AttemptFiles) -> None:
    assert claim.block(files, "cancelled\nby hand")
    assert claim.block(files, "again")
    assert not claim.take(files, "late")
    assert taken_by_shell(files, "late") == NOT_STARTED
    found = claim.read(files)
    assert found is not None
    assert found.blocked == "cancelled by hand"


def test_one_of_many_wins(files: AttemptFiles) -> None:
    barrier = Barrier(RACERS)

    def race(number: int) -> bool:
        barrier.wait(PATIENCE)
        if number % 2:
            return taken_by_shell(files, str(number)) == 0
        return claim.take(files, str(number))

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(race, range(RACERS)))
    assert results.count(True) == 1
    assert owner_of(files) == str(results.index(True))
    assert [path.name for path in Path(files.directory).iterdir()] == ["job.claim"]


@pytest.mark.parametrize("shell", SHELLS)
def test_taken_by_a_shell(files: AttemptFiles, shell: str) -> None:
    assert taken_by_shell(files, "pod 'one'", shell) == 0
    assert owner_of(files) == "pod 'one'"
    assert taken_by_shell(files, "pod 'one'", shell) == NOT_STARTED
    assert taken_by_shell(files, "pod 'one'", shell, again="exit 3") == 3
    assert taken_by_shell(files, "another", shell, again="exit 3") == NOT_STARTED
    assert not claim.take(files, "third")


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    files = AttemptFiles.of(str(tmp_path / "gone" / "workspace"), "job")
    assert taken_by_shell(files, "one") == NOT_WRITABLE
    with pytest.raises(OSError, match="gone"):
        claim.take(files, "one")


def test_a_claim_that_is_being_written_or_was_replaced(files: AttemptFiles) -> None:
    Path(files.claim).touch()
    assert owner_of(files) == ""
    assert taken_by_shell(files, "late") == NOT_STARTED
    Path(files.claim).unlink()
    Path(files.claim).symlink_to("/etc/passwd")
    assert claim.read(files) == Claim("")


@pytest.mark.parametrize("number", ["1e999", "-1", "nan", "9" * 400, "\0"])
def test_a_claim_that_its_job_has_written(files: AttemptFiles, number: str) -> None:
    Path(files.claim).write_text(f"{'x' * 60_000}\nhost\n{number}\n")
    found = claim.read(files)
    assert found is not None
    assert len(found.owner) <= 1000
    assert datetime.fromtimestamp(found.at, UTC).year >= 2024
    Path(files.cancel).write_text(number)
    assert claim.cancel_requested_at(files) == 0


def test_cancel_requests(files: AttemptFiles) -> None:
    assert claim.cancel_requested_at(files) is None
    claim.request_cancel(files, 12.5)
    claim.request_cancel(files, 13.5)
    assert claim.cancel_requested_at(files) == 12.5
