"""Paths that match a pattern, with a limit for what is looked at: the directories may be those of any user."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic

from ccat_workflow_manager.execution.launch_spec import Progress, no_progress

_NAMES_PER_PROGRESS = 2000


class TooManyNames(Exception):
    """The pattern matches or looks at more names than allowed. Its text says how many."""


@dataclass(slots=True)
class _Search:
    most_names: int
    progress: Progress
    looked_at: int = 0
    patterns: dict[str, re.Pattern[str]] = field(default_factory=dict)

    def names(self, directory: str) -> list[tuple[str, bool]]:
        """The names in a directory and whether each is a directory itself; none if it cannot be read."""
        found = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    self.looked_at += 1
                    if self.looked_at > self.most_names:
                        raise TooManyNames(f"looks at more than {self.most_names} names (INPUT_MAX_ENTRIES)")
                    if self.looked_at % _NAMES_PER_PROGRESS == 0:
                        self.progress()
                    found.append((entry.name, _is_directory(entry)))
        except OSError:
            return []  # what matches nothing is reported by the caller
        return sorted(found)

    def matching(self, pattern: str, names: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
        if pattern not in self.patterns:
            self.patterns[pattern] = re.compile(fnmatch.translate(pattern))
        wanted, hidden = self.patterns[pattern], pattern.startswith(".")
        return ((name, is_dir) for name, is_dir in names if wanted.match(name) and (hidden or name[0] != "."))

    def walk(self, base: str, parts: Sequence[str]) -> Iterator[str]:
        """The matches of a pattern, whose parts are given, below `base`."""
        if not parts:
            yield base
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self.walk(base, rest) if rest else ()
            for name, is_dir in self.names(base):
                path = f"{base}/{name}"
                if name[0] == ".":
                    continue
                if not rest:
                    yield path
                if is_dir and not os.path.islink(path):
                    yield from self.walk(path, parts)
        elif not has_magic(part):
            path = f"{base}/{part}"
            if rest or os.path.lexists(path):
                yield from self.walk(path, rest)
        else:
            for name, is_dir in self.matching(part, self.names(base or "/")):
                if not rest or is_dir:
                    yield from self.walk(f"{base}/{name}", rest)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def expand(pattern: str, *, most: int, most_names: int, progress: Progress = no_progress) -> list[str]:
    """The absolute paths that match, sorted. Raises TooManyNames.

    `**` stands for any number of directories; it follows no links. Hidden names match only a pattern with the dot.
    """
    parts = [part for part in pattern.split("/") if part]
    found: set[str] = set()
    for path in _Search(most_names, progress).walk("", parts):
        found.add(path)
        if len(found) > most:
            raise TooManyNames(f"matches more than {most} files")
    return sorted(found)
