"""The audit: each transaction that a request makes adds a row that says who changed what.

The request sets its `Change` for its own task and threads. `Database.begin` writes it with the transaction, so there is
no change without its row, and no row of a change that was rolled back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.lifecycle.waiting import utc_text

_INSERT = """
INSERT INTO audit (actor, identity, address, action, object, project, before, after, request_id)
VALUES (:actor, :identity, :address, :action, :object, :project, CAST(:before AS jsonb), CAST(:after AS jsonb),
  :request_id)
"""


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


def describe(*, target: str | None = None, project: str | None = None, before: Any = None, after: Any = None) -> None:
    """Add to the change of the present request what it is made on, and the small part that it changes."""
    change = _current.get()
    if change is not None:
        change.target = target or change.target
        change.project = project or change.project
        change.before = before if before is not None else change.before
        change.after = after if after is not None else change.after


def write(execute: Callable[[str, Mapping[str, Any]], object]) -> None:
    """Add the row of the present change, if there is one, to the transaction in which `execute` runs statements."""
    change = _current.get()
    if change is None or change.written_elsewhere:
        return
    execute(
        _INSERT,
        {
            "actor": change.by.name,
            "identity": change.by.key,
            "address": change.address,
            "action": change.action,
            "object": change.target,
            "project": change.project,
            "before": None if change.before is None else json.dumps(change.before, default=_text),
            "after": None if change.after is None else json.dumps(change.after, default=_text),
            "request_id": change.request_id,
        },
    )


def _text(value: object) -> str:
    return utc_text(value) if isinstance(value, datetime) else str(value)
