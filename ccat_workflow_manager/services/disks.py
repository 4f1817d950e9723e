"""How full the disks of the service are, as a manager sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccat_workflow_manager.lifecycle.waiting import utc_text

_FULL = 0.9
_SILENT_SECONDS = 60.0
"""A file system that has not answered for so long hangs."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One file system, with the settings whose directories are on it."""

    names: tuple[str, ...]
    total: int
    """Bytes that others than root can use, as the rest."""
    free: int

    @property
    def used(self) -> float:
        """The share that is used, from 0 to 1."""
        return 1 - self.free / self.total if self.total else 0.0

    @property
    def is_full(self) -> bool:
        """So little is left that a person should make room."""
        return self.used >= _FULL

    @property
    def percent(self) -> str:
        """As `df` says it: a disk with room is never at 100."""
        return f"{min(99, round(100 * self.used)) if self.free else 100} %"


class Disks:
    """The disks as a loop has seen them last. Readers look at none: a file system of the network may never answer."""

    def __init__(self, places: Mapping[str, Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._asked_at: float | None = None
        self._error = ""
        self._seen: Sequence[Disk] = ()
        self._full_since: Mapping[tuple[str, ...], datetime] = {}

    def look(self) -> None:
        """Look at each once. Directories that this process does not see are left out: workers may have them alone."""
        self._asked_at = self._clock()
        found, error = dict[int, Disk](), ""
        for name, path in self._places.items():
            try:
                device, facts = path.stat().st_dev, os.statvfs(path)
            except FileNotFoundError:
                continue
            except OSError as problem:
                error = f"{name}: {problem.strerror}"
                continue
            names = (*(found[device].names if device in found else ()), name)
            usable = facts.f_blocks - facts.f_bfree + facts.f_bavail
            found[device] = Disk(names, usable * facts.f_frsize, facts.f_bavail * facts.f_frsize)
        self._seen = sorted(found.values(), key=lambda disk: disk.used, reverse=True)
        self._asked_at, self._error = None, error
        before, now = self._full_since, datetime.now(UTC)
        self._full_since = {disk.names: before.get(disk.names, now) for disk in self._seen if disk.is_full}

    def causes(self) -> list[dict[str, Any]]:
        """The disks that are full, as causes that need a person (`db.views.attention`)."""
        full_since = self._full_since
        return [
            {
                "kind": "space",
                "id": " ".join(disk.names),
                "text": f"the disk of {' and '.join(disk.names)} is {disk.percent} full",
                "since": utc_text(full_since[disk.names]),
                "disk": disk,
            }
            for disk in self._seen
            if disk.names in full_since
        ]

    @property
    def seen(self) -> Sequence[Disk]:
        """The disks at the last look, the fullest first."""
        return self._seen

    @property
    def problem(self) -> str:
        """Why one of them cannot be looked at; empty if all can."""
        asked_at = self._asked_at
        if asked_at is not None and self._clock() - asked_at > _SILENT_SECONDS:
            return f"a file system has not answered for {_SILENT_SECONDS:.0f} s"
        return self._error
