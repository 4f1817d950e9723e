"""Prints tables for people and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ccat_workflow_manager.commands.terminal_text import plain, plain_json

_NO_WIDTH = 10_000
_MOST_ITEMS = 10
_LONGEST_VALUE = 120
_STYLES = {
    "COMPLETED": "green",
    "FAILED": "bold red",
    "CANCELLED": "yellow",
    "SKIPPED": "yellow",
    "RUNNING": "cyan",
    "PENDING": "dim",
    "ok": "green",
    "not ok": "bold red",
    "passed": "green",
    "failed": "bold red",
    "yes": "green",
}


class _Console(Console):
    """One that leaves a reader that has gone away to the command, whose exit code then says so."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A console for people. Without a terminal, or `wide`, lines have no maximum width."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and not wide else _NO_WIDTH
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """Print JSON that any program reads as it is, and that does nothing to a terminal."""
    sys.stdout.write(plain_json(value, indent=2) + "\n")


def cell(value: object, style: str = "") -> Text:
    text = plain(value)
    return Text(text, style=style or _STYLES.get(text, ""))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    whole: Iterable[str] = (),
) -> Table:
    """A plain table. Columns named in `right` hold numbers, those in `whole` texts that are never broken."""
    numbers, unbroken = set(right), set(whole)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in numbers else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=column in unbroken)
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values below each other, without empty values."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", {}, []):
            made.add_row(name, value if isinstance(value, Text) else cell(value))
    return made


# --- values ----------------------------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def cpu_hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f"{hours:.2f}" if hours >= 1 else f"{hours:.5f}"


def memory(gigabytes: float | None) -> str:
    if gigabytes is None:
        return ""
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal. Yields the function that moves it on by a number of bytes."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda done: None
        return
    with Progress(TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=out) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time of the API."""
    return datetime.fromisoformat(text) if text else None


def when(text: str | None) -> str:
    """A time of the API for people: UTC, to the second."""
    found = moment(text)
    return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if found else ""


def pairs_text(mapping: dict[str, Any], separator: str = "=") -> str:
    """Parameters or labels on one line, as on the command line; long lists by their length."""
    return "  ".join(f"{name}{separator}{value_text(value)}" for name, value in mapping.items())


def value_text(value: Any) -> str:
    if isinstance(value, list | dict) and len(value) > _MOST_ITEMS:
        return f"{len(value)} items"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
