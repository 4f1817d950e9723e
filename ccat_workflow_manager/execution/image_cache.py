"""The cache of registry images: `sha256-<digest>.sif`, and for each reference an entry that names its file.

One process pulls an image under a file lock to a temporary name, and the others wait for the result. The pull runs in a
thread, so that the caller renews its lease meanwhile. It goes on when the caller gives up, because the next attempt
needs the same image.
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
    """The cached image of a registry reference. Pulls it if it is not in the cache."""
    known = _known.get((cache_dir, reference)) or _read_entry(cache_dir, reference)
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
    """One pull, in a daemon thread: a worker does not wait for it when it ends."""

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
    stem = _entry(cache_dir, reference)
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    with open(f"{stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read_entry(cache_dir, reference)
        if known is not None and os.path.exists(known.path):
            return known
        # Only the holder of the lock uses this name, so a file that exists is left from a killed pull.
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
        _write_entry(f"{stem}.json", reference, digest, path)
        return ResolvedImage(reference, path, digest)


def _entry(cache_dir: str, reference: str) -> str:
    """The path of the entry, without its suffix."""
    return os.path.join(cache_dir, "references", hashlib.sha256(reference.encode()).hexdigest()[:32])


def _write_entry(entry: str, reference: str, digest: str, path: str) -> None:
    with open(f"{entry}.part", "w", encoding="utf-8") as file:
        json.dump({"reference": reference, "digest": digest, "file": os.path.basename(path)}, file)
    os.rename(f"{entry}.part", entry)


def _read_entry(cache_dir: str, reference: str) -> ResolvedImage | None:
    try:
        with open(f"{_entry(cache_dir, reference)}.json", encoding="utf-8") as file:
            content = json.load(file)
        return ResolvedImage(reference, os.path.join(cache_dir, content["file"]), content["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # an unreadable entry costs one more pull
