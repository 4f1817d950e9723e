"""How many step runs of a step may end without completing before the step behind it is skipped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, PathPart, kind, path_text, shown

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", re.ASCII)
_MOST = 1_000_000
_RIGHT = 'write a whole number of step runs, such as 7, or a share of them, such as "5%"'


def tolerate_problem(value: object) -> str | None:
    """What is wrong with a value of `tolerate`, and what would be right."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return f"must be a number of step runs or a percentage, not {kind(value)}; {_RIGHT}"
    if isinstance(value, int):
        if value < 0:
            return f"must be at least 0, not {value}; {_RIGHT}"
        return f"must be at most {_MOST}, not {value}; {_RIGHT}" if value > _MOST else None
    found = _PERCENT.fullmatch(value)
    if found is None:
        return f"must be a number of step runs or a percentage from 0% to 100%, not {shown(value)}; {_RIGHT}"
    if Fraction(found[1]) > 100:
        return f"must be at most 100%, not {shown(value)}: more than all step runs cannot be lost; {_RIGHT}"
    return None


def allowed_losses(tolerate: int | str, total: int) -> int:
    """How many of `total` step runs may be lost. A percentage is rounded down."""
    if isinstance(tolerate, int):
        return tolerate
    return int(Fraction(tolerate.rstrip("% ")) * total / 100)


def combination_faults(entry: Mapping[str, Any], path: tuple[PathPart, ...], *, same_foreach: bool) -> Iterator[Fault]:
    """Fields of one entry of depends_on that exclude each other."""
    weak, tolerate = entry.get("weak") is True, entry.get("tolerate")

    def fault(field: str, message: str) -> Fault:
        return Fault(path_text([*path, field]), message)

    if weak and tolerate is not None:
        yield fault("tolerate", "cannot be given with weak: true, which tolerates every loss; leave one of them out")
    elif tolerate is not None and _by_key(entry.get("match"), same_foreach=same_foreach):
        message = "counts the losses among all step runs, but here each item waits for its own item only"
        yield fault("tolerate", f"{message}; write match: all, or weak: true instead of tolerate")
    if weak and entry.get("wait") == "fail_fast":
        yield fault("wait", "cannot be fail_fast with weak: true, which tolerates every loss; leave one of them out")


def _by_key(match: JSON, *, same_foreach: bool) -> bool:
    return match == "key" or (match is None and same_foreach)
