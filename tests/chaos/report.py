"""The table of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.chaos.matrix import ROWS, Outcome
from tests.chaos.points import PACKAGE, points

PAGE = PACKAGE.parent / "docs" / "reliability.md"
_BEGIN, _END = "<!-- begin: written by `make chaos` -->", "<!-- end -->"


def table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """One line per point: survived of tried, for each backend."""
    rows = [row for row in ROWS if row.name in outcomes]
    lines = [f"| point | process | {' | '.join(row.name for row in rows)} |", f"|---|---|{'---|' * len(rows)}"]
    for point in points():
        processes = sorted({o.process for each in outcomes.values() for o in each if o.point == point})
        cells = [_cell([outcome for outcome in outcomes[row.name] if outcome.point == point]) for row in rows]
        lines.append(f"| `{point}` | {', '.join(processes) or '-'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(tried: Sequence[Outcome]) -> str:
    survived = sum(not outcome.problem for outcome in tried if outcome.passed)
    passed = sum(outcome.passed for outcome in tried)
    return f"{survived}/{passed}" if passed else "-"


def page_with(text: str, total: int, failed: int) -> str:
    """The page with this table in the place of the one before."""
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.partition(_BEGIN)[0], page.partition(_END)[2]
    return f"{head}{_BEGIN}\n\n{total - failed} of {total} cases survived.\n\n{text}\n\n{_END}{tail}"
