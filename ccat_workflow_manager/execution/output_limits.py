"""The bounds of what one attempt may leave. Each reason names the path, the limit and the setting that raises it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.launch_spec import Progress
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB

MAX_PATH_BYTES = 1024
"""Of the name and the path of a product. An index of the database takes no text of more than 2,700."""
_BYTES_PER_PROGRESS = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """The settings OUTPUT_*."""

    max_files: int = 20_000
    max_entries: int = 500_000
    limit_gb: float = 2000
    sparse_gb: float = 64
    limit_seconds: float = 7200
    metadata_kb: float = 64
    max_parents: int = 100_000


class Budget:
    """What collecting one attempt has used of the limits. Raises OutputError when one is exceeded."""

    def __init__(self, limits: OutputLimits, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._progress = progress
        self._clock = clock
        self._deadline = clock() + limits.limit_seconds
        self._files = self._entries = self._bytes = self._parents = 0
        self._unreported = 0

    def entry(self, path: str) -> None:
        """Count one name in a directory."""
        self._entries += 1
        if self._entries > self.limits.max_entries:
            self._refuse(path, f"the output has more than {self.limits.max_entries} entries", "OUTPUT_MAX_ENTRIES")

    def product(self, path: str) -> None:
        """Count one product."""
        if len(path.encode()) > MAX_PATH_BYTES:
            invalid(f"{path[:80]}... is a path of more than {MAX_PATH_BYTES} bytes; shorten it or pack the directory")
        self._files += 1
        if self._files > self.limits.max_files:
            hint = "declare directories of many files as one product in products.json"
            self._refuse(path, f"the output has more than {self.limits.max_files} files; {hint}", "OUTPUT_MAX_FILES")

    def file(self, path: str, size: int, allocated: int) -> None:
        """Count the size of a file before it is read. `allocated` is what it takes on the disk."""
        if size - allocated > self.limits.sparse_gb * GIB:
            text = f"it has {size / GIB:.0f} GB, of which only {allocated / GIB:.0f} GB are on disk"
            self._refuse(path, f"{text}; {self.limits.sparse_gb:g} GB may be missing", "OUTPUT_SPARSE_GB")
        self._bytes += size
        if self._bytes > self.limits.limit_gb * GIB:
            self._refuse(path, f"the output has more than {self.limits.limit_gb:g} GB", "OUTPUT_LIMIT_GB")

    def work(self, path: str, amount: int) -> None:
        """Report that so many bytes were read, or as much other work was done."""
        self._unreported += amount
        if self._unreported < _BYTES_PER_PROGRESS:
            return
        self._unreported = 0
        if self._clock() > self._deadline:
            text = f"collecting the output takes more than {self.limits.limit_seconds:g} s"
            self._refuse(path, text, "OUTPUT_LIMIT_SECONDS")
        self._progress()

    def parents(self, path: str, count: int) -> None:
        """Count declared parents of a product."""
        self._parents += count
        if self._parents > self.limits.max_parents:
            text = f"products.json declares more than {self.limits.max_parents} parents"
            self._refuse(path, text, "OUTPUT_MAX_PARENTS")

    def _refuse(self, path: str, text: str, setting: str) -> NoReturn:
        invalid(f"{path}: {text} ({setting})")


def invalid(message: str) -> NoReturn:
    raise OutputError(FailureReason.OUTPUT_INVALID, message)
