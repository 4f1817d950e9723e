"""The cache of registry images: `sha256-<digest>.sif`, and for each reference an entry that names its file.

One process pulls an image under a file lock to a temporary name, in a thread. Step runs that need the image are
deferred until it is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os

from ccat_workflow_manager import failpoints, shell
from ccat_workflow_manager.errors import JobDeferred, StagingError
from ccat_workflow_manager.execution.background import Background
from ccat_workflow_manager.execution.launch_spec import Progress, ResolvedImage
from ccat_workflow_manager.execution.runtime import Runtime
from ccat_workflow_manager.execution.sif import check_sif, digest_of
from ccat_workflow_manager.failures import FailureReason

_known: dict[tuple[str, str], ResolvedImage] = {}


def pulled_image(
    reference: str, *, cache_dir: str, runtime: Runtime, progress: Progress, timeout: float
) -> ResolvedImage:
    """The cached image of a registry reference. Pulls it if it is not in the cache.

    Raises JobDeferred while it is being pulled: a worker has other work to do.
    """
    key = cache_dir, reference
    known = _known.get(key) or _read_entry(cache_dir, reference)
    if known is not None and os.path.exists(known.path):
        _known[key] = known
        return known
    image = _pulls.result(
        key,
        lambda: _pulled(reference, cache_dir, runtime, timeout),
        progress,
        name=f"pull {reference}",
        waiting=f"waiting for the image {reference}, which is being pulled",
    )
    _known[key] = image
    return image


_pulls: Background[ResolvedImage] = Background(FailureReason.IMAGE_PULL)


def _pulled(reference: str, cache_dir: str, runtime: Runtime, timeout: float) -> ResolvedImage:
    try:
        return _pull_under_lock(reference, cache_dir, runtime, timeout)
    except shell.CommandError as error:
        limit = " (IMAGE_PULL_SECONDS)" if isinstance(error, shell.CommandTimeout) else ""
        message = f"{reference} could not be pulled: {error.message}{limit}{error.output_tail[-1000:]}"
        raise StagingError(FailureReason.IMAGE_PULL, message) from error
    except OSError as error:
        raise StagingError(FailureReason.IMAGE_PULL, f"{reference} could not be cached: {error}") from error


def _pull_under_lock(reference: str, cache_dir: str, runtime: Runtime, timeout: float) -> ResolvedImage:
    stem = _entry(cache_dir, reference)
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    with open(f"{stem}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobDeferred(f"waiting for the image {reference}, which another worker is pulling") from None
        known = _read_entry(cache_dir, reference)
        if known is not None and os.path.exists(known.path):
            return known
        # Only the holder of the lock uses this name, so a file that exists is left from a killed pull.
        partial = f"{stem}.partial.sif"
        try:
            failpoints.around("files.pull", lambda: _pull(runtime.program, reference, partial, timeout))
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


def _pull(program: str, reference: str, target: str, timeout: float) -> None:
    """Pull a registry image into the file `target`, replacing an existing one. Kills a pull that takes too long."""
    argv = [program, "pull", "--force", "--name", target, reference]
    done = shell.run(argv, timeout=timeout)
    if done.returncode != 0:
        raise shell.CommandError(done.output_tail or f"{program} ended with exit code {done.returncode}", argv)


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
