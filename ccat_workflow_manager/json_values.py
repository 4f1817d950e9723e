"""JSON values from outside: which can be stored, how a path in them is written, how values are shown and counted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

from ccat_workflow_manager.errors import MAX_FAULTS, Fault, Invalid
from ccat_workflow_manager.limits import limits

JSON = Any
"""A value that JSON can express."""

MAX_DEPTH = 32
_BIGGEST_INTEGER = 10**100
_LONGEST_COMPARED = 100

PathPart = str | int
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

# While walking, a path is a chain (parent, part): almost no path is ever written out.
_Chain = tuple["_Chain | None", PathPart]


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a walk through a value."""

    faults: Sequence[Fault]
    readable: bool
    """False: the value is no JSON, or too big or too deep to be checked further."""


def path_text(path: Iterable[PathPart]) -> str:
    """`("steps", 1, "depends_on", 0)` as `steps[1].depends_on[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_NAME.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def kind(value: object) -> str:
    """The type of a value, in the words of people who write YAML."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({str(value).lower()})"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def shown(value: object, length: int = 60) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= length else text[: length - 3] + "..."


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a sentence: the first `most`, and how many more there are."""
    known = list(names)
    text = ", ".join(known[:most])
    return f"{text} and {len(known) - most} more" if len(known) > most else text


def similar(name: str, known: Iterable[str]) -> str | None:
    """The one of up to 100 known names that was probably meant. Long names are not compared: it takes too long."""
    if len(name) > _LONGEST_COMPARED:
        return None
    return next(iter(get_close_matches(name, list(islice(known, 100)), 1)), None)


def canonical_json(value: JSON) -> str:
    """The same text for equal values; the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def whole_numbers(value: JSON) -> JSON:
    """The value with 1.0 as 1: JSON Schema treats them as equal."""
    match value:
        case float() if math.isfinite(value) and value.is_integer():
            return int(value)
        case list():
            return [whole_numbers(one) for one in value]
        case dict():
            return {name: whole_numbers(one) for name, one in value.items()}
        case _:
            return value


def weight(value: JSON) -> int:
    """About how much memory and time a value takes: one for each value in it, and one for each 64 characters."""
    if isinstance(value, str):
        return 1 + len(value) // 64
    total, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        total += 1
        if isinstance(one, str):
            total += len(one) // 64
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            total += sum(map(len, one)) // 64
            waiting += one.values()
    return total


def invalid(faults: Iterable[Fault]) -> Invalid:
    """An Invalid with the first fault of each path, of up to MAX_FAULTS paths."""
    first_of_path: dict[str, Fault] = {}
    for fault in faults:
        first_of_path.setdefault(fault.path, fault)
        if len(first_of_path) > MAX_FAULTS:
            break
    return Invalid(faults=first_of_path.values())


def storable(value: Any) -> Any:
    """Foreign values as PostgreSQL can hold them: U+FFFD in place of NUL and of halves of surrogate pairs."""
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case Mapping():
            return {storable(name): storable(each) for name, each in value.items()}
        case list() | tuple():
            return [storable(each) for each in value]
        case _:
            return value


def duplicate_name(pairs: Iterable[tuple[str, object]]) -> str | None:
    """The first name that occurs twice. It takes one pass, so a large body costs no more to check than to parse."""
    found: set[str] = set()
    for name, _ in pairs:
        if name in found:
            return name
        found.add(name)
    return None


def text_problem(text: str) -> str | None:
    """Why neither PostgreSQL nor the arguments of a program can hold this text; None if they can."""
    if "\0" in text:
        return "contains a NUL character (U+0000), which is not allowed"
    if not text.isascii() and _SURROGATE.search(text):
        return "contains half of a surrogate pair, which is no valid Unicode"
    return None


def scan_json(value: object, root: Sequence[PathPart] = ()) -> Scan:
    """Find everything in a value that cannot be stored as JSON. It does not recurse, so no input exhausts the stack."""
    faults: list[Fault] = []
    readable = True
    count = 0
    level: list[tuple[object, _Chain | None]] = [(value, None)]
    most_values, deepest = limits().json_values, limits().json_depth
    for _ in range(deepest):
        below: list[tuple[object, _Chain | None]] = []
        for one, chain in level:
            count += 1
            if isinstance(one, dict):
                for name, inner in one.items():
                    if not isinstance(name, str):
                        readable = False
                        faults.append(
                            _fault(root, chain, f"has the key {name!r}; keys must be strings, write it in quotes")
                        )
                        continue
                    if problem := text_problem(name):
                        faults.append(_fault(root, chain, f"has a key that {problem}"))
                    below.append((inner, (chain, name)))
            elif isinstance(one, list):
                below.extend([(inner, (chain, index)) for index, inner in enumerate(one)])
            elif problem := _scalar_problem(one):
                readable = readable and isinstance(one, str | float)
                faults.append(_fault(root, chain, problem))
            if len(faults) > MAX_FAULTS:
                return Scan(faults, False)
        if not below:
            return Scan(faults, readable)
        if count + len(below) > most_values:
            message = f"holds more than {most_values} values; send less, or raise JSON_VALUES"
            return Scan([*faults, Fault(path_text(root), message)], False)
        level = below
    message = f"is nested more than {deepest} levels deep, the limit JSON_DEPTH"
    return Scan([*faults, _fault(root, level[0][1], message)], False)


def _scalar_problem(value: object) -> str | None:
    match value:
        case None | bool():
            return None
        case str():
            return text_problem(value)
        case int():
            return None if abs(value) < _BIGGEST_INTEGER else "is a number of more than 100 digits"
        case float():
            return None if math.isfinite(value) else "is not a finite number; NaN and Infinity are not allowed"
        case _:
            return f"is {kind(value)}, which JSON cannot express"


def _fault(root: Sequence[PathPart], chain: _Chain | None, message: str) -> Fault:
    path: list[PathPart] = []
    while chain is not None:
        chain, part = chain
        path.append(part)
    return Fault(path_text([*root, *reversed(path)]), message)


def counted(number: int, what: str) -> str:
    """`1 product`, `2 products`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
