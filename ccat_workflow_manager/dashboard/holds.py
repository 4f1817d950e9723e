"""What is paused or drained, for the banners of pages, and what the reader may pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ccat_workflow_manager.api.authentication import current_identity
from ccat_workflow_manager.api.rights import RIGHTS, WHOLE_SERVICE
from ccat_workflow_manager.dashboard.board import Board
from ccat_workflow_manager.db.queries.holds import held_up, visible_holds
from ccat_workflow_manager.lifecycle.holds import Hold, Kind

ROUTES = {
    Kind.PIPELINE: "/pipelines/{name}",
    Kind.PROJECT: "/projects/{project}",
    Kind.BACKEND: "/backends/{name}",
    Kind.SERVICE: "/service",
}
"""The addresses of the actions end with `/pause` and `/resume`, those of their previews with `/hold`."""


def values(board: Board, concerns: Callable[[Hold], bool] = lambda hold: True) -> dict[str, Any]:
    """The holds that concern a page, how many step runs each keeps back, and what the reader may pause."""
    with board.context.database.read() as unit:  # not a shared answer: a page that hears of a change sees it
        found = visible_holds(unit, board.projects)
    known = board.context.holds.known_backends
    waiting = board.read(("held up", tuple(found)), lambda unit: held_up(unit, known, board.projects)) if found else {}
    shown = [each for each in found if concerns(each)]
    return {
        "holds": shown,
        "addresses": {each.subject: address(each.kind, each.name) for each in shown},
        "waiting": {each.subject: waiting.get(each.subject, 0) for each in shown},
        "may_hold": may_hold(board),
    }


def address(kind: Kind, name: str) -> str:
    """Where the actions on it are."""
    return ROUTES[kind].format(name=quote(name, safe=""), project=quote(name, safe=""))


def may_hold(board: Board) -> frozenset[Kind]:
    """What the reader may pause and resume on pages."""
    identity = current_identity(board.request)
    if identity is None:
        return frozenset()
    rights = {kind: RIGHTS[f"POST {path}/pause"] for kind, path in ROUTES.items()}
    return frozenset(
        kind
        for kind, right in rights.items()
        if right.role is not None
        and identity.role.includes(right.role)
        and (right.about != WHOLE_SERVICE or identity.projects is None)
    )
