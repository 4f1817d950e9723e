"""What every call has: the context, who is asking, and no parameter that it does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.sql import snapshot
from ccat_workflow_manager.errors import Fault, Invalid, NotFound

PREFIX = "/api/v1"
ANONYMOUS = "anonymous"
_REPEATABLE = ("status", "label")


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def actor(request: Request) -> str:
    """Who is asking, as events record it."""
    return ANONYMOUS


async def known_parameters(request: Request) -> None:
    """Refuse query parameters that the call does not have, and one that is given twice: both are mistakes."""
    if not request.scope["query_string"]:
        return
    route: APIRoute = request.scope["route"]
    known = [field.alias for field in route.dependant.query_params]
    given = Counter(name for name, _ in request.query_params.multi_items())
    hint = f"; there are {', '.join(known)}" if known else "; it has none"
    faults = [Fault(name, f"is not a parameter of this call{hint}") for name in given if name not in known]
    faults += [
        Fault(name, "is given more than once") for name, count in given.items() if count > 1 and name not in _REPEATABLE
    ]
    if faults:
        raise Invalid(faults=faults)


Ctx = Annotated[Context, Depends(_context)]
Actor = Annotated[str, Depends(actor)]


def read_one(context: Context, what: str, view: Callable[[UnitOfWork, Any], str | None], key: object) -> str:
    """The JSON text of one thing, or NotFound."""
    with context.database.read() as unit:
        snapshot(unit)
        text = view(unit, key)
    if text is None:
        raise NotFound(f"there is no {what} {key}")
    return text
