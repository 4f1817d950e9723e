"""Searches a log where it is, a stretch at a time, so that no reader loads it whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ccat_workflow_manager.services.logs import LogLocation, Logs

_SECONDS = 2.0
_MOST_MATCHES = 200


@dataclass(slots=True)
class Matches:
    """The bytes at which lines with the text begin, and how far the search has come."""

    offsets: list[int] = field(default_factory=list)
    looked: int = 0
    size: int = 0

    @property
    def finished(self) -> bool:
        return self.looked >= self.size


def search(logs: Logs, log: LogLocation, stream: str, text: str, start: int) -> Matches:
    """Lines with this text from byte `start` on, capital letters or not, for at most two seconds."""
    found, wanted = Matches(looked=start), text.casefold()
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and len(found.offsets) < _MOST_MATCHES:
        piece = logs.read(log, stream, offset=found.looked)
        found.size = piece.size or 0
        if piece.next_offset is None or piece.next_offset <= found.looked:
            found.looked = max(found.looked, found.size)
            break
        at = found.looked
        for line in piece.text.splitlines(keepends=True):
            if wanted in line.casefold():
                found.offsets.append(at)
            at += len(line.encode("utf-8", "replace"))
        found.looked = piece.next_offset
        if found.finished:
            break
    return found
