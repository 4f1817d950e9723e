"""The log of a container, as the node wrote it: time, stream, whether the line is complete, text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

_FALLBACK_LINES = 80
_FALLBACK_BYTES = 2048


def shown(lines: Iterable[bytes], *, timestamps: bool) -> Iterator[bytes]:
    """The text as `pods/log` gives it."""
    for line in lines:
        time, _, rest = line.partition(b" ")
        _, _, rest = rest.partition(b" ")
        whole, _, text = rest.partition(b" ")
        if whole == b"P":
            text = text.removesuffix(b"\n")
        yield time + b" " + text if timestamps else text


def read(path: Path, *, tail: int | None = None, since: str | None = None) -> list[bytes]:
    """The lines there are now; `since`: only from this time (as RFC 3339) on."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        lines = list(file if tail is None else deque(file, tail))
    if since is None:
        return lines
    return [line for line in lines if line.partition(b" ")[0].decode() >= since]


def end(path: Path) -> str:
    """What stands in for a termination message."""
    text = b"".join(shown(read(path, tail=_FALLBACK_LINES), timestamps=False))
    return text[-_FALLBACK_BYTES:].decode("utf-8", "replace")
