"""The audit: each transaction that a request makes adds a row that says who changed what.

The request sets its `Change` for its own task and threads. `Database.begin` writes it with the transaction, so there is
no change without its row, and no row of a change that was rolled back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.waiting import utc_text

_INSERT = """
INSERT INTO audit (actor, identity, address, action, object, project, before, after, request_id)
SELECT :actor, :identity, :address, :action, o.object, o.project, CAST(:before AS jsonb), CAST(:after AS jsonb),
  :request_id
FROM """
_INSERT_ONE = f"{_INSERT} (SELECT CAST(:object AS text) AS object, CAST(:project AS text) AS project) o"
_INSERT_RUNS = f"{_INSERT} (SELECT concat('runs/', id) AS object, project FROM runs WHERE id = ANY(:runs)) o"


@dataclass(slots=True)
class Change:
    """What one request changes. Those who carry it out fill in what they know."""

    by: Identity
    action: str
    target: str
    address: str = ""
    request_id: str = ""
    project: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    runs: Collection[UUID] | None = None
    """Each of these has a row of its own, in place of one for the target."""
    written_elsewhere: bool = field(default=False)
    """The statements of the transaction write the rows themselves."""


_current: ContextVar[Change | None] = ContextVar("change", default=None)


def current() -> Change | None:
    """The change that the present request makes."""
    return _current.get()


def attribute(change: Change) -> None:
    """Audit all transactions of the present task, and of the threads that it starts, as this change."""
    _current.set(change)


@contextmanager
def audited(change: Change) -> Iterator[None]:
    """Audit the transactions of this block as this change."""
    token = _current.set(change)
    try:
        yield
    finally:
        _current.reset(token)


def describe(
    *,
    action: str | None = None,
    target: str | None = None,
    project: str | None = None,
    runs: Collection[UUID] | None = None,
    before: Any = None,
    after: Any = None,
) -> None:
    """Add to the change of the present request what it is made on, and the small part that it changes."""
    change = _current.get()
    if change is not None:
        change.action = action or change.action
        change.target = target or change.target
        change.project = project or change.project
        change.runs = runs if runs is not None else change.runs
        change.before = before if before is not None else change.before
        change.after = after if after is not None else change.after


def write(execute: Callable[[str, Mapping[str, Any]], object]) -> None:
    """Add the rows of the present change, if there is one, to the transaction in which `execute` runs statements."""
    change = _current.get()
    if change is None or change.written_elsewhere or (change.runs is not None and not change.runs):
        return
    values = {
        "actor": change.by.name,
        "identity": change.by.key,
        "address": change.address,
        "action": change.action,
        "before": None if change.before is None else json.dumps(change.before, default=_text),
        "after": None if change.after is None else json.dumps(change.after, default=_text),
        "request_id": change.request_id,
    }
    if change.runs is None:
        execute(_INSERT_ONE, values | {"object": change.target, "project": change.project})
    else:
        execute(_INSERT_RUNS, values | {"runs": list(change.runs)})


def _text(value: object) -> str:
    return utc_text(value) if isinstance(value, datetime) else str(value)
