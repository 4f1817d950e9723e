"""Events: what happened, by type, pipeline, run, actor and time, in pages in both directions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from starlette.responses import Response

from ccat_workflow_manager.api.route import page_router, reads_query
from ccat_workflow_manager.dashboard import filters
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.parts import shared
from ccat_workflow_manager.dashboard.rendering import Rendered
from ccat_workflow_manager.db.queries.feed import Place
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views.events import EventFilter, EventsPage, events_page
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.lifecycle.event_types import ANY, PREFIX, TYPES, events_of

router = page_router()

_PAGE = 100
_LONGEST = 300
_GROUPS = {f"step_run.{ANY}": "all of step runs", f"run.{ANY}": "all of runs", f"backend.{ANY}": "all of backends"}
TYPE_CHOICES = {"": "all types", **_GROUPS, **{(n := name.removeprefix(PREFIX)): n for name in TYPES.values()}}
_CONDITIONS = ("type", "pipeline", "run", "by", "since", "until")


def _place(name: str, text: str) -> Place | None:
    if not text:
        return None
    try:
        position, _, number = text.partition("-")
        found = Place(int(position), int(number))
    except ValueError:
        raise Invalid(faults=[Fault(name, "is not a place among the events")]) from None
    if not all(0 <= each < 2**63 for each in found):
        raise Invalid(faults=[Fault(name, "is not a place among the events")])
    return found


def _filter(sent: dict[str, str]) -> EventFilter:
    """What the address asks for. Raises Invalid with a fault for each value that cannot be meant."""
    faults, values = [], dict[str, Any]()
    for name, value in sent.items():
        try:
            values |= _condition(name, value) if value else {}
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    if faults:
        raise Invalid(faults=faults)
    return EventFilter(**values)


def _condition(name: str, value: str) -> dict[str, Any]:
    if len(value) > _LONGEST or text_problem(value):
        raise ValueError("is too long or not a text")
    match name:
        case "type":
            events, unknown = events_of([PREFIX + value.removeprefix(PREFIX)])
            if unknown:
                raise ValueError(f"{value!r} is no type of event; there are {', '.join(list(TYPE_CHOICES)[1:])}")
            return {"events": tuple(sorted(events))}
        case "run":
            try:
                return {"run_id": UUID(value)}
            except ValueError:
                raise ValueError("must be the id of a run") from None
        case "by":
            return {"actor": value}
        case "since" | "until":
            return {name: filters.moment(value)}
        case _:
            return {name: value}


def _values(board: Board) -> dict[str, Any]:
    query = board.request.query_params
    if unknown := [name for name in query if name not in (*_CONDITIONS, "cursor", "after")]:
        known = ", ".join(_CONDITIONS)
        raise Invalid(faults=[Fault(name, f"there is no such condition; there are {known}") for name in unknown])
    sent = {name: query.get(name, "").strip() for name in _CONDITIONS}
    cursor, after = query.get("cursor", ""), query.get("after", "")
    before, behind = _place("cursor", cursor), _place("after", after)
    wanted = _filter(sent)

    def look(unit: UnitOfWork) -> EventsPage:
        return events_page(unit, wanted, _PAGE, board.projects, before=before, after=behind)

    page: EventsPage = board.read(("events", tuple(sent.values()), cursor, after), look)
    given = filters.Conditions(tuple((name, value) for name, value in sent.items() if value))
    return {
        "items": page.items,
        "looked_to": page.looked_to,
        "newer": f"/events{given.query(after=_text(page.newer))}" if page.newer else "",
        "older": f"/events{given.query(cursor=_text(page.older))}" if page.older else "",
        "is_live": not cursor and not after and not sent["until"],
        "here": given.query(),
        "sent": sent,
        "filtered": bool(given.pairs),
    }


def _text(place: Place) -> str:
    return f"{place.position}-{place.event_id}"


@router.get("/events")
@reads_query
def events(board: B) -> Response:
    try:
        values, status = {**_values(board), "faults": []}, 200
    except Invalid as error:
        sent = {name: board.request.query_params.get(name, "") for name in _CONDITIONS}
        values, status = {"sent": sent, "faults": error.faults}, error.http_status
    return board.page("events", "events", status, types=TYPE_CHOICES, **values)


@router.get("/ui/events")
@reads_query
@shared
def events_part(board: B) -> Rendered:
    return board.part("events", **_values(board))
