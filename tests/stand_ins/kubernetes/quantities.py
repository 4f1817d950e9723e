"""Quantities: `100m`, `2`, `1Gi`."""

from __future__ import annotations

import re
from decimal import Decimal

_PATTERN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(m|u|n|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?")
_SUFFIXES = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}  # fmt: skip

REGEX = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
"""As the API server names it in its message."""


def parse(text: object) -> Decimal:
    """Raises ValueError for what is no quantity."""
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise ValueError(f"quantities must match the regular expression '{REGEX}'")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix[:1] in "eE" and suffix[1:2].isdigit() | (suffix[1:2] in "+-" and bool(suffix[1:])):
        return number * Decimal(10) ** int(suffix[1:])
    return number * _SUFFIXES[suffix]
