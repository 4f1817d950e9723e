"""The claim of an attempt: a file that is created once, by the process that may start the command.

Schedulers may start a job twice (a lost answer, a lost worker). Each start takes the claim first, and the second one
ends without having started anything. A cancel, or a backend that gives the job up, takes the claim as well: then the
attempt never starts.

The file has up to four lines: owner, host, time, start. A shell (`sh_take`) writes no time; `start` distinguishes the
starts of one owner, if its scheduler has a word for that.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles, write_once
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, read_small

NOT_STARTED = 75
"""The exit code of a start that found the attempt claimed by another owner."""
NOT_WRITABLE = 74
"""The exit code of a start that cannot write into the directory of its attempt."""
BEAT_SECONDS = 5.0
"""How often a runner touches its claim."""
STALE_SECONDS = 60.0
"""A claim that was not touched for so long belongs to a dead runner; shared filesystems show changes late."""
CANCELLED = "cancelled"
"""Why a claim blocks an attempt that was cancelled before it started."""
_BLOCKED = "nobody: "
_LONGEST = 1000
"""A job may have written the claim, and its texts get into messages."""
_LAST_SECOND = 2**33


@dataclass(frozen=True, slots=True)
class Claim:
    """The first owner of an attempt."""

    owner: str
    """Empty if it cannot be read (yet): a shell creates the file before it writes."""
    host: str = ""
    at: float = 0.0
    touched: float = 0.0
    """The time of the last heartbeat."""
    start: str = ""
    """Which start of the owner this is."""

    @property
    def blocked(self) -> str | None:
        """Why the attempt never starts; None if it may have started."""
        return self.owner.removeprefix(_BLOCKED) if self.owner.startswith(_BLOCKED) else None

    def alive(self, now: float) -> bool:
        return now - self.touched < STALE_SECONDS


def take(files: AttemptFiles, owner: str) -> bool:
    """Claim an attempt. Returns False if it is claimed already. Raises OSError."""
    lines = (" ".join(owner.split()), platform.node(), repr(time.time()))
    return write_once(files.claim, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def block(files: AttemptFiles, why: str) -> bool:
    """Claim an attempt so that it never starts. Returns False if it may have started. Raises OSError."""
    if take(files, _BLOCKED + why):
        return True
    claim = read(files)
    return claim is not None and claim.blocked is not None


def read(files: AttemptFiles) -> Claim | None:
    """The claim of an attempt; None if it is free. Raises OSError.

    A file by which a job has replaced the claim is a claim without an owner.
    """
    try:
        found = read_small(files.claim, root=files.directory)
    except UnsafeFile:
        return Claim("")
    if found is None:
        return None
    owner, host, at, start, *_ = [*found.text.splitlines(), "", "", "", ""]
    since = _seconds(at, found.modified)
    return Claim(owner[:_LONGEST], host[:_LONGEST], since, found.modified, start[:_LONGEST])


def touch(files: AttemptFiles) -> None:
    """Show that the runner of the attempt is alive. A filesystem that fails for a moment is no reason to end."""
    with suppress(OSError):
        os.utime(files.claim, follow_symlinks=False)


def sh_take(claim: str, *, again: str | None = None, refused: str = ":", node: str = "") -> str:
    """Shell text that takes the claim for `$me`, or ends the script with NOT_STARTED or NOT_WRITABLE.

    `claim` is the path as a quoted shell word. `again` is what an owner runs that finds its own claim, after a second
    start by the scheduler; without it such a start ends as well. `refused` is what a start runs before it ends that
    finds the claim of `$first`. `node` is the variable with the name of this machine at the scheduler, if that has one.
    Needs only what is built into a shell, and the variables `me` and `start`.
    """
    named = f"host=${{{node}:-$host}}\n" if node else ""
    found = "" if again is None else '[ "$first" = "$me" ] || '
    return f"""\
first= host=
read -r host </proc/sys/kernel/hostname
{named}(set -C; printf '%s\\n%s\\n\\n%s\\n' "$me" "$host" "$start" >{claim}) 2>/dev/null || {{
  read -r first 2>/dev/null <{claim} || [ -e {claim} ] || {{
    echo "the directory of the attempt cannot be written to" >&2
    exit {NOT_WRITABLE}
  }}
  {found}{{
    {refused}
    echo "the attempt belongs to ${{first:-another job}}, not to $me" >&2
    exit {NOT_STARTED}
  }}
  {again or ":"}
}}
"""


# --- cancel requests -------------------------------------------------------------------------------------------------


def cancel(files: AttemptFiles, at: float) -> bool:
    """Block an attempt, or ask its runner to stop it. Returns True if it never starts. Raises OSError."""
    if block(files, CANCELLED):
        return True
    request_cancel(files, at)
    return False


def request_cancel(files: AttemptFiles, at: float) -> None:
    """Ask the runner of the attempt to stop it. The first request counts. Raises OSError."""
    write_once(files.cancel, f"{at!r}\n".encode())


def cancel_requested_at(files: AttemptFiles) -> float | None:
    """When the first cancel was requested. Raises OSError."""
    try:
        found = read_small(files.cancel, root=files.directory)
        return None if found is None else _seconds(found.text, 0.0)
    except UnsafeFile:
        return 0.0


def _seconds(text: str, otherwise: float) -> float:
    """A time since the epoch that a date can hold."""
    try:
        found = float(text)
    except ValueError:
        return otherwise
    return found if 0 <= found < _LAST_SECOND else otherwise
