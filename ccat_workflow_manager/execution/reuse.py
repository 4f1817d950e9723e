"""Takes over the published output of an earlier attempt, by hard links: nothing is copied, and both can be deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.execution import layout
from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.execution.outputs import publish

_LINKS_PER_PROGRESS = 256


class Expected(Protocol):
    """What must be there of a product."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def is_directory(self) -> bool: ...


def missing(directory: str, products: Sequence[Expected]) -> str | None:
    """A product that is not in its directory as it was published. None: all are."""
    for product in products:
        try:
            status = os.lstat(f"{directory}/{product.path}")
        except OSError:
            return product.path
        if not product.is_directory and status.st_size != product.size:
            return product.path
    return None


def take_over(source: str, dirs: AttemptDirs, *, group: int | None, progress: Progress) -> None:
    """Publish the output directory `source` as the output of this attempt. Raises OSError. Safe to repeat."""
    layout.create(dirs, contained=False, group=group)
    if os.path.isdir(dirs.output):
        return
    shutil.rmtree(dirs.output_partial)
    failpoints.around("files.reuse", lambda: _Linker(progress).link(source, dirs.output_partial))
    publish(dirs)


def discard(dirs: AttemptDirs) -> None:
    """Remove what an interrupted `take_over` has left, before the attempt runs by itself."""
    for path in (dirs.output, dirs.output_partial):
        if os.path.isdir(path):
            failpoints.around("files.discard", partial(shutil.rmtree, path))


class _Linker:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._made = 0

    def link(self, source: str, target: str) -> None:
        """Make the directory `target` with the directories of `source` and hard links to its files."""
        os.makedirs(target, exist_ok=True)
        with os.scandir(source) as entries:
            for entry in entries:
                path = f"{target}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    self.link(entry.path, path)
                elif entry.is_symlink():
                    os.symlink(os.readlink(entry.path), path)
                else:
                    os.link(entry.path, path, follow_symlinks=False)
                self._made += 1
                if self._made % _LINKS_PER_PROGRESS == 0:
                    self._progress()
