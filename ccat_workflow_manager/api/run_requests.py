"""A run as a client asks for it, from JSON. By hand, because this is the busiest call of all."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header

from ccat_workflow_manager.api.body import Fields
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import kind
from ccat_workflow_manager.services.requests import BULK_LIMIT, RunRequest

_FIELDS = ("pipeline", "version", "spec", "parameters", "priority", "labels", "backend")
_LONGEST_KEY = 255

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", description="Makes the call safe to repeat.")]


def run_request(value: dict[str, Any]) -> RunRequest:
    """One run. Raises Invalid with every fault."""
    faults: list[Fault] = []
    request = _read(value, "", faults)
    if faults:
        raise Invalid(faults=faults)
    return request


def run_requests(body: dict[str, Any]) -> list[RunRequest]:
    """The runs of a bulk request."""
    fields = Fields(body, ("runs",))
    values = body.get("runs")
    if not isinstance(values, list):
        fields.fault("runs", f"must be a list of runs, not {kind(values)}" if "runs" in body else "is required")
        raise Invalid(faults=fields.faults)
    if len(values) > BULK_LIMIT:
        fields.fault("runs", f"holds {len(values)} runs; at most {BULK_LIMIT} at a time")
    fields.check()
    faults: list[Fault] = []
    requests = []
    for index, value in enumerate(values):
        if isinstance(value, dict):
            requests.append(_read(value, f"runs[{index}]", faults))
        else:
            faults.append(Fault(f"runs[{index}]", f"must be a JSON object, not {kind(value)}"))
        if len(faults) > 100:
            break
    if faults:
        raise Invalid(faults=faults)
    return requests


def _read(value: dict[str, Any], path: str, faults: list[Fault]) -> RunRequest:
    fields = Fields(value, _FIELDS, path, faults)
    return RunRequest(
        pipeline=fields.text("pipeline"),
        version=fields.whole("version"),
        spec=value.get("spec"),
        parameters=fields.mapping("parameters"),
        priority=fields.whole("priority"),
        labels=fields.texts("labels"),
        backend=fields.text("backend"),
    )


def idempotency_key(header: str | None) -> str | None:
    """The key in the header, if there is one that can be kept."""
    if header is None:
        return None
    if not 0 < len(header) <= _LONGEST_KEY or not header.isascii() or not header.isprintable():
        raise Invalid(faults=[Fault("Idempotency-Key", f"must have 1 to {_LONGEST_KEY} printable ASCII characters")])
    return header
