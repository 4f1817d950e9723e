"""Registry images, pulled once: `sha256-<digest>.sif` beside a note of which reference it was pulled for.

One process pulls, under a file lock, to a temporary name; the others wait and find the result. The pull runs in a
thread of its own, so that the caller can renew its lease meanwhile, and goes on when the caller gives up: the next
attempt will want the same image.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import AttemptError, StagingError
from ccat_workflow_manager.execution import spython_tools
from ccat_workflow_manager.execution.launch_spec import Progress, ResolvedImage
from ccat_workflow_manager.execution.runtime import Runtime
from ccat_workflow_manager.execution.sif import check_sif, digest_of
from ccat_workflow_manager.failures import FailureReason

_PROGRESS_SECONDS = 1.0
_known: dict[tuple[str, str], ResolvedImage] = {}


def pulled_image(
    reference: str, *, cache_dir: str, runtime: Runtime, progress: Progress, timeout: float
) -> ResolvedImage:
    """The cached image of a registry reference, pulled now if it never was."""
    known = _known.get((cache_dir, reference)) or _read_note(cache_dir, reference)
    if known is not None and os.path.exists(known.path):
        _known[cache_dir, reference] = known
        return known
    pull = _Pull(reference, cache_dir, runtime)
    pull.start()
    deadline = time.monotonic() + timeout
    while pull.is_alive():
        pull.join(_PROGRESS_SECONDS)
        progress()
        if pull.is_alive() and time.monotonic() > deadline:
            raise StagingError(
                FailureReason.IMAGE_PULL, f"{reference} is still being pulled after {timeout:g} s; a retry will find it"
            )
    if pull.image is None:
        raise pull.error or StagingError(FailureReason.IMAGE_PULL, f"the pull of {reference} broke off")
    _known[cache_dir, reference] = pull.image
    return pull.image


class _Pull(threading.Thread):
    """One pull, in the background of the process: it does not keep a worker from ending."""

    def __init__(self, reference: str, cache_dir: str, runtime: Runtime) -> None:
        super().__init__(name=f"pull {reference}", daemon=True)
        self.reference, self.cache_dir, self.runtime = reference, cache_dir, runtime
        self.image: ResolvedImage | None = None
        self.error: AttemptError | None = None

    def run(self) -> None:
        try:
            self.image = _pull_under_lock(self.reference, self.cache_dir, self.runtime)
        except AttemptError as error:
            self.error = error
        except spython_tools.SpythonFailed as error:
            message = f"{self.reference} could not be pulled: {str(error)[-1000:]}"
            self.error = StagingError(FailureReason.IMAGE_PULL, message)
        except OSError as error:
            self.error = StagingError(FailureReason.IMAGE_PULL, f"{self.reference} could not be cached: {error}")


def _pull_under_lock(reference: str, cache_dir: str, runtime: Runtime) -> ResolvedImage:
    notes = os.path.join(cache_dir, "references")
    os.makedirs(notes, exist_ok=True)
    stem = os.path.join(notes, _name(reference))
    with open(f"{stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read_note(cache_dir, reference)
        if known is not None and os.path.exists(known.path):
            return known
        # Only the holder of the lock uses this name: what lies there is left from a pull that was killed.
        partial = f"{stem}.partial.sif"
        try:
            failpoints.around("files.pull", lambda: spython_tools.pull(runtime.program, reference, partial))
            if not os.path.exists(partial):
                raise StagingError(FailureReason.IMAGE_PULL, f"the pull of {reference} left no image")
            check_sif(partial)
            digest = digest_of(partial)
            path = os.path.join(cache_dir, f"{digest.replace(':', '-')}.sif")
            os.chmod(partial, 0o644)
            os.rename(partial, path)
        finally:
            if os.path.lexists(partial):
                os.unlink(partial)
        _write_note(f"{stem}.json", reference, digest, path)
        return ResolvedImage(reference, path, digest)


def _name(reference: str) -> str:
    return hashlib.sha256(reference.encode()).hexdigest()[:32]


def _write_note(note: str, reference: str, digest: str, path: str) -> None:
    with open(f"{note}.part", "w", encoding="utf-8") as file:
        json.dump({"reference": reference, "digest": digest, "file": os.path.basename(path)}, file)
    os.rename(f"{note}.part", note)


def _read_note(cache_dir: str, reference: str) -> ResolvedImage | None:
    note = os.path.join(cache_dir, "references", f"{_name(reference)}.json")
    try:
        with open(note, encoding="utf-8") as file:
            content = json.load(file)
        return ResolvedImage(reference, os.path.join(cache_dir, content["file"]), content["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an unreadable note costs one more pull, no more
