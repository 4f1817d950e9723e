"""What an attempt runs that its definition does not say: the digest of its image, or its programs on the host."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from typing import Any

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.definition.image_names import pinned
from ccat_workflow_manager.execution.images import digest_of_image, resolve_image
from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.execution.runtime import Runtime, RuntimeKind
from ccat_workflow_manager.execution.sif import digest_of

NO_IMAGE = "none: programs of the host"
_LARGEST_PROGRAM = 256 * 1024**2
_MOST_PROGRAMS = 1000

_programs: BoundedCache[tuple[str, int, int, int], str] = BoundedCache(_MOST_PROGRAMS)


def provenance(
    command: Sequence[str], image: str | None, *, runtime: Runtime, sif_cache_dir: str, progress: Progress
) -> dict[str, Any]:
    """The provenance of an attempt with this command and image. `image` is None if its digest cannot be known."""
    if runtime.kind is RuntimeKind.BACKEND and image is not None:
        return {"image": pinned(image)[1]}
    if runtime.contained and image is not None:
        path = resolve_image(image, cache_dir=sif_cache_dir, runtime=runtime, progress=progress).path
        return {"image": digest_of_image(path, progress)}
    return {"image": NO_IMAGE, "programs": programs_of(command, progress)}


def programs_of(command: Sequence[str], progress: Progress) -> dict[str, str]:
    """The digests of the program and of the files of the host that the command names by their paths."""
    paths = [shutil.which(command[0]) or command[0], *command[1:]] if command else []
    found = {}
    for path in paths:
        digest = _digest(path, progress) if path.startswith("/") else None
        if digest is not None:
            found[path] = digest
    return found


def _digest(path: str, progress: Progress) -> str | None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_PROGRAM:
            return None
        key = path, status.st_mtime_ns, status.st_size, status.st_ino
        known = _programs.get(key)
        if known is None:
            known = digest_of(path, progress)
            _programs.put(key, known, 1)
        return known
    except (OSError, ValueError):
        return None  # no file of this machine, or one that only the program can read
