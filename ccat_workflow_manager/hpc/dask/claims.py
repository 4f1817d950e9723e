"""Who has an attempt: one small file beside the job script, made once, by whoever comes first.

Dask runs a task again when its worker is lost, so the task alone would start a job twice. The watcher of a job takes
the claim before it starts anything; who cancels a job, or finds that Dask has forgotten it, takes the claim so that it
never starts. As long as the job runs its watcher touches the file, which tells everybody that it is alive.

This file is shipped to Dask workers: standard library only.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from uuid import uuid4

BEAT_SECONDS = 5.0
"""How often a watcher shows that it is alive."""
STALE_SECONDS = 60.0
"""A claim that was touched longer ago is that of a watcher which is gone; shared filesystems show changes late."""


class What(StrEnum):
    """What the one who came first wants."""

    STARTED = "started"
    CANCELLED = "cancelled"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Claim:
    """The one who came first."""

    what: What
    at: float
    host: str = ""
    worker: str = ""
    """The Dask worker that runs it."""
    text: str = ""
    """Why it was dropped."""
    touched: float = 0.0
    """Last sign of life; not in the file but of it."""

    def alive(self, now: float) -> bool:
        return now - self.touched < STALE_SECONDS


def take(base: str, claim: Claim) -> bool:
    """Be the first; False if somebody else was. Raises OSError."""
    part = f"{base}.{uuid4().hex}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(asdict(claim), file)
        try:
            os.link(part, _claim_file(base))
        except FileExistsError:
            return False
        return True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def read(base: str) -> Claim | None:
    """The claim; None if nobody has come yet. Raises OSError, and ValueError if it is something else."""
    try:
        with open(_claim_file(base), encoding="utf-8", errors="replace") as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    data = json.loads(text)
    try:
        return Claim(**{**data, "what": What(data["what"]), "touched": touched})
    except (TypeError, LookupError) as error:
        raise ValueError(f"not a claim: {error}") from error


def beat(base: str) -> None:
    """Show that the watcher is alive."""
    with suppress(OSError):
        os.utime(_claim_file(base))


def ask_to_stop(base: str) -> None:
    """Ask the watcher that has the claim to stop its job. Raises OSError."""
    with suppress(FileExistsError), open(base + ".cancel", "x", encoding="ascii") as file:
        file.write(f"{time.time()}\n")


def asked_to_stop(base: str) -> bool:
    return os.path.exists(base + ".cancel")


def _claim_file(base: str) -> str:
    return base + ".claim"
