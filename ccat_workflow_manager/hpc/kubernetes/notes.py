"""Where the attempts of jobs are, and what was decided about them: files on the volume that workers and pods share.

For each job there is a symbolic link from the name of its Job to where the files of its attempt begin; a link is made,
found and removed in one step, and needs no file to point to. Cancels and claims lie beside the attempt itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.kubernetes.script import NOBODY, AttemptFiles

T = TypeVar("T")

DIRECTORY = ".kubernetes"
_LONGEST = 64 * 1024


class Notes:
    """The notes of one PIPELINE_BASE_DIR."""

    def __init__(self, base_dir: str) -> None:
        self._directory = Path(base_dir, DIRECTORY)

    def write(self, name: str, attempt: AttemptFiles) -> None:
        """Raises OSError."""
        link = self._directory / name
        try:
            os.symlink(str(attempt), link)
        except FileNotFoundError:
            self._directory.mkdir(parents=True, exist_ok=True)
            os.symlink(str(attempt), link)
        except FileExistsError:
            if os.readlink(link) != str(attempt):
                part = self._directory / f".{name}.{os.getpid()}"
                os.symlink(str(attempt), part)
                part.replace(link)

    def read(self, name: str) -> AttemptFiles | None:
        return _tried(lambda: AttemptFiles.parse(os.readlink(self._directory / name)), f"the note of {name}")

    def forget(self, name: str) -> None:
        _tried(lambda: os.unlink(self._directory / name), f"the note of {name}")


def record(attempt: AttemptFiles) -> str | None:
    """The text of the exit record, if there is one."""
    return _tried(lambda: _text(attempt.files.record), "the exit record")


def claim(attempt: AttemptFiles) -> str:
    """The pod that began the attempt, or why none may; empty if nobody has."""
    return (_tried(lambda: _text(attempt.claim), "the claim") or "").strip()


def cancelled_at(attempt: AttemptFiles) -> float | None:
    text = _tried(lambda: _text(attempt.cancelled), "the note of the cancel")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise BackendUnavailable(f"{attempt.cancelled} holds no time: {text!r}", backend="kubernetes") from error


def note_cancel(attempt: AttemptFiles, now: float) -> None:
    """The first cancel counts. What has not begun never will."""
    _tried(lambda: _create(attempt.cancelled, repr(now)), "the note of the cancel")
    take(attempt, "cancelled")


def take(attempt: AttemptFiles, why: str) -> bool:
    """Claim the attempt for nobody; False if a pod has begun it."""
    _tried(lambda: _create(attempt.claim, f"{NOBODY}{why}\n"), "the claim")
    return claim(attempt).startswith(NOBODY)


def _create(path: str, text: str) -> None:
    """Not there, or there with all of its text."""
    part = f"{path}.{os.getpid()}.{threading.get_ident()}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.link(part, path)
    except FileExistsError:
        return
    finally:
        if os.path.lexists(part):
            os.unlink(part)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_LONGEST)


def _tried(what: Callable[[], T], label: str) -> T | None:
    """None if there is no such file. A filesystem that does not answer is no news about a job."""
    try:
        return what()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BackendUnavailable(f"{label} cannot be read: {error.strerror}", backend="kubernetes") from error
