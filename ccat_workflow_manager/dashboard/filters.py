"""The filter of the list of runs: between the address, the tokens on the page, and the condition of the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.db.queries.run_filter import RunFilter, two_values
from ccat_workflow_manager.definition.project import PROJECT_NAME
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.lifecycle.states import RunStatus

SPANS = {"1h": "last hour", "24h": "last 24 h", "7d": "last 7 days", "30d": "last 30 days"}
_SPAN = re.compile(r"([1-9][0-9]{0,3})(min|h|d)", re.ASCII)
_UNITS = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_NAMES = ("status", "pipeline", "project", "label", "reason", "caveats", "by", "created", "q")
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Token:
    """One condition as the page shows it."""

    name: str
    value: str
    text: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of an address, in its order."""

    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def tokens(self) -> list[Token]:
        return [Token(name, value, SPANS.get(value, value)) for name, value in self.pairs]

    def query(self, **more: str) -> str:
        """The query part of an address, with its question mark."""
        encoded = urlencode([*self.pairs, *((name, value) for name, value in more.items() if value)])
        return f"?{encoded}" if encoded else ""

    def without(self, name: str, value: str | None = None) -> Conditions:
        kept = (pair for pair in self.pairs if pair[0] != name or (value is not None and pair[1] != value))
        return Conditions(tuple(kept))

    def with_(self, name: str, value: str) -> Conditions:
        """With this condition, in place of others of its name unless it is a label."""
        kept = self if name == "label" else self.without(name)
        return kept if (name, value) in kept.pairs else Conditions((*kept.pairs, (name, value)))

    def one(self, name: str) -> str:
        return next((value for each, value in self.pairs if each == name), "")

    def filter(self, visible: Projects) -> RunFilter:
        """The condition of the database on runs of these projects.

        Raises Invalid with a fault for each value that cannot be meant.
        """
        faults: list[Fault] = []
        wanted = RunFilter(visible=visible)
        for name, value in self.pairs:
            try:
                wanted = _with(wanted, name, value)
            except ValueError as error:
                faults.append(Fault(name, str(error)))
        if faults:
            raise Invalid(faults=faults)
        return wanted


def of_query(query: QueryParams) -> Conditions:
    """The conditions of an address. Unknown names are faults when the filter is used; empty values are left out."""
    others = ("cursor", "after", "before", "limit")
    return Conditions(tuple((n, v) for n, v in query.multi_items() if v.strip() and n not in others))


def of_text(text: str) -> Iterable[tuple[str, str]]:
    """The conditions that a person has typed: `status:FAILED label:source:Orion any text`."""
    words: list[str] = []
    for part in re.findall(r'(?:[^\s"]|"[^"]*")+', text[:_LONGEST]):
        name, colon, value = part.replace('"', "").partition(":")
        if colon and value and name.lower() in _NAMES:
            yield name.lower(), value.upper() if name.lower() == "status" else value
        else:
            words.append(part.replace('"', ""))
    if words:
        yield "q", " ".join(words)


def _with(wanted: RunFilter, name: str, value: str) -> RunFilter:
    if len(value) > _LONGEST or text_problem(value):
        raise ValueError("is too long or not a text")
    match name:
        case "status":
            if value not in set(RunStatus):
                raise ValueError(f"{value!r} is not a status; there are {', '.join(RunStatus)}")
            return replace(wanted, status=(*wanted.status, RunStatus(value)))
        case "project" if not re.fullmatch(PROJECT_NAME, value):
            raise ValueError("is no name of a project: lower-case letters, digits and hyphens")
        case "pipeline" | "project" | "reason" | "q":
            return replace(wanted, **{name: value})  # type: ignore[arg-type]
        case "label":
            return replace(wanted, labels={**wanted.labels, **_label(wanted, value)})
        case "caveats":
            if value not in ("true", "false"):
                raise ValueError("must be true or false")
            return replace(wanted, caveats=value == "true")
        case "by":
            return replace(wanted, created_by=value)
        case "created":
            return replace(wanted, created_after=moment(value))
        case _:
            raise ValueError(f"there is no such condition; there are {', '.join(_NAMES)}")


def _label(wanted: RunFilter, value: str) -> dict[str, str]:
    label, colon, text = value.partition(":")
    if not colon or not label:
        raise ValueError("must be written name:value")
    if (problem := two_values([*wanted.labels.items(), (label, text)])) is not None:
        raise ValueError(problem)
    return {label: text}


def moment(span: str) -> datetime:
    """When a span like `24h` began; a time as it is. Raises ValueError."""
    match = _SPAN.fullmatch(span)
    if match:
        return times.now() - int(match[1]) * _UNITS[match[2]]
    try:
        found = datetime.fromisoformat(span)
    except ValueError:
        raise ValueError("must be a span like 24h or 7d, or a time like 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=times.now().tzinfo)


def without_each(conditions: Conditions) -> Sequence[tuple[Token, str]]:
    """Each token with the address of the list without it."""
    return [(t, f"/runs{conditions.without(t.name, t.value).query()}") for t in conditions.tokens]
