"""Resolve the name of an image to a file on this machine.

A path is searched for; a registry reference is pulled once into the cache. A repeated call costs one `stat`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from ccat_workflow_manager.definition.image_names import image_problem, is_reference, pinned, scheme_of
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.image_cache import pulled_image
from ccat_workflow_manager.execution.launch_spec import Progress, ResolvedImage, no_progress
from ccat_workflow_manager.execution.runtime import Runtime
from ccat_workflow_manager.execution.sif import check_sif, digest_of
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import similar

PULL_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _CheckedFile:
    """A file that was checked; it is checked again when it has changed."""

    modified_ns: int
    size: int
    inode: int
    digest: str | None = None


_CACHED_NAME = re.compile(r"sha256-([0-9a-f]{64})\.sif")
_checked: dict[str, _CheckedFile] = {}


def _named_in(directory: str) -> Iterator[str]:
    """The images of this directory that have names of people."""
    # What cannot be listed only costs the hint.
    with suppress(OSError), os.scandir(directory) as entries:
        yield from (each.name for each in entries if each.name.endswith(".sif") and not _CACHED_NAME.match(each.name))


def resolve_image(
    reference: str,
    *,
    cache_dir: str,
    runtime: Runtime,
    progress: Progress = no_progress,
    pull_timeout: float = PULL_TIMEOUT_SECONDS,
) -> ResolvedImage:
    """The image file of `reference`. Raises StagingError."""
    if problem := image_problem(reference):
        raise _invalid(f"{reference!r} cannot be the name of an image: it {problem}")
    if scheme_of(reference) is None:
        name, digest = pinned(reference)
        directory = os.path.abspath(cache_dir)
        path = os.path.join(directory, name)
        if os.path.exists(path):
            _check(path, directory, digest, progress)
            return ResolvedImage(reference, path, digest)
        if digest is None or name.endswith(".sif") or os.path.isabs(name):
            where = "" if os.path.isabs(name) else f" in {directory}"
            close = None if os.path.isabs(name) else similar(name, _named_in(directory))
            hint = f"; did you mean {close}?" if close is not None else ""
            raise StagingError(FailureReason.IMAGE_MISSING, f"there is no image {name}{where}{hint}")
        if not is_reference(reference):
            raise _invalid(f"{reference} is not a reference to an image in a registry")
        reference = f"docker://{reference}"
    return pulled_image(reference, cache_dir=cache_dir, runtime=runtime, progress=progress, timeout=pull_timeout)


def digest_of_image(path: str, progress: Progress = no_progress) -> str | None:
    """The digest of an image file, computed once while the file stays the same. None: it is a directory."""
    name = _CACHED_NAME.fullmatch(os.path.basename(path))
    if name is not None:
        return f"sha256:{name[1]}"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None
        now = _CheckedFile(status.st_mtime_ns, status.st_size, status.st_ino)
        checked = _checked.get(path)
        if checked is None or checked.digest is None or replace(checked, digest=None) != now:
            checked = replace(now, digest=digest_of(path, progress))
            _checked[path] = checked
    except OSError as error:
        raise _invalid(f"{path} cannot be read: {error.strerror}") from error
    return checked.digest


def _check(path: str, cache_dir: str, wanted: str | None, progress: Progress) -> None:
    """Raise StagingError unless the file is an image and, if it is pinned, has the digest `wanted`."""
    try:
        status = os.stat(path)
        now = _CheckedFile(status.st_mtime_ns, status.st_size, status.st_ino)
        checked = _checked.get(path)
        if checked is None or replace(checked, digest=None) != now:
            _check_content(path, status, cache_dir)
            checked = now
        if wanted is not None and checked.digest is None:
            checked = replace(checked, digest=digest_of(path, progress))
    except OSError as error:
        raise _invalid(f"{path} cannot be read: {error.strerror}") from error
    _checked[path] = checked
    if wanted is not None and checked.digest != wanted:
        raise _invalid(f"{path} is not the pinned image: it has {checked.digest}, wanted is {wanted}")


def _check_content(path: str, status: os.stat_result, cache_dir: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        check_sif(path)
        return
    # An unpacked image is allowed only in the cache: `image: /` would show the whole host to a program.
    if not os.path.realpath(path).startswith(os.path.realpath(cache_dir) + "/"):
        raise _invalid(f"{path} is a directory; image directories are allowed only among the images")


def _invalid(message: str) -> StagingError:
    return StagingError(FailureReason.IMAGE_INVALID, message)
