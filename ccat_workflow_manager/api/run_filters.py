"""Which runs are meant, from the query of a list or from the `filter` of a bulk request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.api.body import Fields
from ccat_workflow_manager.db.views.filters import RunFilter
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import kind, text_problem
from ccat_workflow_manager.lifecycle.states import RunStatus

_FIELDS = ("status", "pipeline", "label", "created_after", "q")
_LONGEST_SEARCH = 200


def from_query(
    status: Sequence[str], pipeline: str | None, label: Sequence[str], created_after: str | None, q: str | None
) -> RunFilter:
    """The filter that the parameters of a query say."""
    given = {"status": list(status), "pipeline": pipeline, "label": list(label), "created_after": created_after, "q": q}
    faults: list[Fault] = []
    return _checked(given, Fields(given, _FIELDS, "", faults))


def from_body(value: object) -> RunFilter:
    """The filter of a bulk request, which must narrow something down."""
    if not isinstance(value, dict):
        raise Invalid(faults=[Fault("filter", f"must be a mapping, not {kind(value)}")])
    found = _checked(value, Fields(value, _FIELDS, "filter"))
    if found.empty:
        raise Invalid(faults=[Fault("filter", "is empty, which would mean every run; say at least one condition")])
    return found


def _checked(value: dict[str, Any], fields: Fields) -> RunFilter:
    found = RunFilter(
        status=tuple(dict.fromkeys(_statuses(value, fields))),
        pipeline=fields.text("pipeline"),
        labels=_labels(value, fields),
        created_after=_moment(fields),
        q=_search(fields),
    )
    fields.check()
    return found


def _listed(value: Any) -> list[tuple[str, Any]]:
    """One or several values, each with what is to be added to the name for its path."""
    if value is None:
        return []
    if isinstance(value, list):
        return [("" if len(value) == 1 else f"[{index}]", each) for index, each in enumerate(value)]
    return [("", value)]


def _statuses(value: dict[str, Any], fields: Fields) -> list[RunStatus]:
    found = []
    for place, each in _listed(value.get("status")):
        try:
            found.append(RunStatus(each))
        except ValueError:
            fields.fault(f"status{place}", f"must be one of {', '.join(RunStatus)}")
    return found


def _labels(value: dict[str, Any], fields: Fields) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, each in _listed(value.get("label")):
        if not isinstance(each, str) or ":" not in each or not each.partition(":")[0]:
            fields.fault(f"label{place}", "must be written name:value")
        elif problem := text_problem(each):
            fields.fault(f"label{place}", problem)
        else:
            name, _, wanted = each.partition(":")
            found[name] = wanted
    return found


def _moment(fields: Fields) -> datetime | None:
    text = fields.text("created_after")
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        fields.fault("created_after", "is no time like 2026-01-31T12:00:00Z (in an address, write + as %2B)")
        return None


def _search(fields: Fields) -> str | None:
    words = fields.text("q")
    if words is not None and len(words) > _LONGEST_SEARCH:
        fields.fault("q", f"has {len(words)} characters; at most {_LONGEST_SEARCH} are allowed")
    return words or None
