"""The tests that may fail on a busy machine for a while: `tests/unsteady.txt`.

`.ci/run` repeats the tests that failed, alone, and then asks this program whether each of them is listed:

    python -m tests.support.unsteady .pytest_cache/v/cache/lastfailed
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

LIST = Path(__file__).parents[1] / "unsteady.txt"
LIFE_DAYS = 30
_LINE = re.compile(r"(\d{4}-\d\d-\d\d) \| (.+) \| (\S.*)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list: `2026-01-31 | tests/file.py::test_name | why it is unsteady`."""

    since: date
    test: str
    reason: str


def parse(text: str) -> list[Entry]:
    """Parse the list. Raises ValueError for a line without date, test or reason."""
    return [_parse_line(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _parse_line(line: str) -> Entry:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"{LIST.name}: {line}")
    return Entry(date.fromisoformat(match[1]), match[2], match[3])


def problems(entries: Iterable[Entry], failed: Iterable[str], today: date) -> list[str]:
    """Why the build fails: tests that passed only when they were repeated and are not listed, entries too old."""
    known = {entry.test for entry in entries}
    return [f"UNSTEADY: {test} passed only when it was repeated alone" for test in failed if test not in known] + [
        f"TOO OLD: {entry.test} is listed since {entry.since}; repair it within {LIFE_DAYS} days"
        for entry in entries
        if (today - entry.since).days > LIFE_DAYS
    ]


def main(last_failed: Path) -> int:
    entries = parse(LIST.read_text(encoding="utf-8"))
    found = problems(entries, json.loads(last_failed.read_text(encoding="utf-8")), datetime.now(UTC).date())
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
