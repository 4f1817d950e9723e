"""What the end of stderr says about why a program failed."""

from __future__ import annotations

import os
import re

_LONGEST = 300
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\ufffd]+")
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded|\[errno (28|122)\]", re.IGNORECASE)
_NOT_STARTED = re.compile(
    r"(?:exec: )?[\"']?(?P<program>[^:\"']+)[\"']?: "
    r"(?P<why>[^:]*not found[^:]*|no such file or directory|permission denied|exec format error|cannot execute.*)\Z",
    re.IGNORECASE,
)
_LOOKED_AT_LINES = 20
_FULL_BYTES = 1024 * 1024


def last_line(stderr: str) -> str:
    """The last line with text in it, without control characters, cut to a length for people. Empty if there is none."""
    for line in reversed(stderr.splitlines()[-_LOOKED_AT_LINES:]):
        if text := _CONTROL.sub(" ", line).strip():
            return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return ""


def full_disk(directory: str, stderr: str) -> str | None:
    """The file system of the directory and its free space, if a program failed because a disk is full; else None.

    Either the program says so, or the file system is full now.
    """
    said = any(_NO_SPACE.search(line) for line in stderr.splitlines()[-_LOOKED_AT_LINES:])
    place, is_full = file_system(directory)
    if is_full:
        return place
    return f"{place}; the program found no space: {last_line(stderr)}" if said else None


def file_system(path: str) -> tuple[str, bool]:
    """The file system of a path and its free space, and whether it is full. The path need not exist."""
    here = os.path.realpath(path)
    while not os.path.exists(here):
        here = os.path.dirname(here)
    space = os.statvfs(here)
    free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    no_files = space.f_files > 0 and space.f_favail == 0
    while not os.path.ismount(here):
        here = os.path.dirname(here)
    files = ", and it can hold no more files" if no_files else ""
    return f"{here} has {free / 1e9:.2f} GB of {total / 1e9:.2f} GB free{files}", free < _FULL_BYTES or no_files


def not_started(exit_code: int | None, said: str) -> str | None:
    """Which file was not found or is not executable, from the words of the shell or the container runtime."""
    lines = map(str.rstrip, reversed(said.split("\n")[-_LOOKED_AT_LINES:]))
    if (found := next(filter(None, map(_NOT_STARTED.search, lines)), None)) is None:
        return None
    program, why = found["program"].strip(" ").removeprefix("stat "), found["why"].lower()
    if program.endswith(("\r", "\\r")):
        name = program.removesuffix("\r").removesuffix("\\r")
        return f"{name} was not found: the lines of the script end as on Windows; mend it with sed -i 's/\\r$//' SCRIPT"
    program = _CONTROL.sub(" ", program)
    if exit_code == 126 or "permission" in why or "cannot execute" in why:
        return f"{program} is not executable: chmod +x it, or name its interpreter in `command`"
    if "format" in why:
        return f"{program} is not a program for this machine: its first line must name an interpreter (#!)"
    return f"{program} was not found; check `command` and the image"
