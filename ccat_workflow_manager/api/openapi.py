"""What OpenAPI needs beyond the routes: base models, bodies that handlers parse themselves, examples, problems.

Responses are JSON text from PostgreSQL. The models of the resources describe them; nothing is serialised through them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp

from ccat_workflow_manager.api import dispatch
from ccat_workflow_manager.api.dependencies import YAML_TYPES
from ccat_workflow_manager.api.problems import MEDIA_TYPE
from ccat_workflow_manager.definition.messages import given_fields
from ccat_workflow_manager.definition.spec import PipelineSpec

Time = datetime


class Shape(BaseModel):
    """Base of all models."""

    model_config = ConfigDict(extra="forbid")

    _given = model_validator(mode="before")(given_fields)


class Page(Shape):
    """Base of all lists."""

    next_cursor: str | None = Field(description="The `cursor` of the next page; null on the last page.")


class ProblemFault(Shape):
    path: str = Field(description="Where, like `steps[1].depends_on[0]`; empty for the whole.")
    message: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` and the messages are for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    faults: list[ProblemFault]


_REFERENCE = "#/components/schemas/{model}"
_BODIES: list[type[BaseModel]] = []
_ID = "0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c"

_DEFINITION = {
    "name": "chai-map",
    "description": "Calibrate and grid one source",
    "parameters": {
        "type": "object",
        "required": ["scans"],
        "properties": {"line": {"type": "string", "default": "CO43"}, "scans": {"type": "array"}},
    },
    "steps": [
        {
            "name": "calibrate",
            "image": "chai-calibration.sif",
            "foreach": "${parameters.scans}",
            "command": ["calibrate", "--scan", "${item}", "--line", "${parameters.line}"],
            "resources": {"cpu": 4, "memory_gb": 16, "time_hours": 2},
        },
        {"name": "grid", "depends_on": ["calibrate"], "image": "chai-gridding.sif", "command": ["grid"]},
    ],
}

_RUN = {"pipeline": "chai-map", "parameters": {"scans": [101, 102]}, "labels": {"source": "Orion KL"}}

RUN_EXAMPLES = {
    "by name": {"value": _RUN},
    "inline": {
        "value": {
            "spec": {
                "name": "hello",
                "steps": [{"name": "say", "image": "ccat-demo.sif", "command": ["echo", "hello"]}],
            },
            "priority": 10,
        }
    },
}
BULK_EXAMPLES = {
    "two runs": {"value": {"runs": [_RUN, {"pipeline": "chai-map", "parameters": {"scans": [103]}, "priority": 5}]}}
}
CHOICE_EXAMPLES = {
    "by ids": {"value": {"ids": [_ID]}},
    "by filter": {"value": {"filter": {"pipeline": "chai-map", "label": "source:Orion KL"}}},
}
RETRY_EXAMPLES = {
    "more memory": {"value": {"step": "grid", "resources": {"memory_gb": 64, "time_hours": 4}}},
    "elsewhere": {"value": {"step": "grid", "key": "101", "backend": "slurm", "reason": "the node is broken"}},
}
OUTCOME_EXAMPLES = {
    "not needed": {"value": {"outcome": "skipped", "reason": "detector 101 is dead since May"}},
    "done": {"value": {"outcome": "completed", "reason": "checked and copied by hand"}},
}
LOG_IN_EXAMPLES = {"by token": {"value": {"token": "ccatwm_0a1b2c3d4e5f_..."}}}
LOG_OUT_EXAMPLES = {"here": {"value": {}}, "everywhere": {"value": {"everywhere": True}}}
TOKEN_EXAMPLES = {
    "for one project": {"value": {"name": "nightly", "role": "submitter", "projects": ["night"]}},
}
HOLD_EXAMPLES = {
    "for two hours": {"value": {"why": "a new calibration is being checked", "until": "2027-01-31T12:00:00Z"}},
    "before maintenance": {"value": {"why": "the cluster is updated at noon", "mode": "drain"}},
}
TERM_EXAMPLES = {"until tomorrow": {"value": {"why": "its input is being repaired", "until": "2027-01-31T12:00:00Z"}}}
PRIORITY_EXAMPLES = {"tonight": {"value": {"priority": 100, "until": "2027-01-31T12:00:00Z", "why": "needed today"}}}
DRAIN_EXAMPLES = {"before maintenance": {"value": {"why": "the host gets new memory"}}}
LIMIT_EXAMPLES = {"for a week": {"value": {"max_live": 1000, "until": "2027-01-31T12:00:00Z", "why": "a campaign"}}}
PROJECT_EXAMPLES = {"a share and limits": {"value": {"weight": 3, "max_live": 500, "max_cpus": 2000}}}
PATCH_EXAMPLES = {"disable": {"value": {"enabled": False}}, "more urgent": {"value": {"priority": 100}}}


def body(model: type[BaseModel], examples: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The JSON body of a call. `DocumentedApp` adds the schema of the model."""
    _BODIES.append(model)
    content = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}, "examples": examples}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


definition: dict[str, Any] = body(PipelineSpec, {"two steps": {"value": _DEFINITION}})
definition["requestBody"]["description"] = f"The same as YAML is taken as {YAML_TYPES[0]}."
"""Only in words: generators of clients take one type of content for a body."""

log: dict[str, Any] = {
    "description": "The text",
    "content": {"text/plain": {"schema": {"type": "string"}}, "text/event-stream": {"schema": {"type": "string"}}},
    "headers": {
        "X-Log-Size": {
            "description": "Length of the log in bytes; missing where only the backend has the log.",
            "schema": {"type": "integer"},
        },
        "X-Log-Next-Offset": {
            "description": "With `tail` or `offset`: the `offset` of the next piece.",
            "schema": {"type": "integer"},
        },
        "X-Log-Truncated": {
            "description": "`true`: the text begins later than requested.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
    },
}
content: dict[str, Any] = {
    "description": "The file, or a tar archive",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
        "*/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
"""A file has the type that its name stands for."""
part: dict[str, Any] = {**content, "description": "The part of the file that `Range` names"}

not_modified: dict[str, Any] = {"description": "The client has it already, by its `If-None-Match`"}


def _problem(description: str, example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model="Problem")}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


def _example(status: int, title: str, code: str, detail: str, *faults: dict[str, str]) -> dict[str, Any]:
    kind = f"urn:ccat-workflow-manager:problem:{code}"
    return {"type": kind, "title": title, "status": status, "detail": detail, "code": code, "faults": list(faults)}


_FAULT = {"path": "parameters.scans", "message": "is required"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": _problem(
        "The request cannot be carried out",
        _example(422, "Unprocessable Content", "invalid", "parameters.scans: is required", _FAULT),
    ),
    "5XX": _problem(
        "The service cannot answer at present",
        _example(503, "Service Unavailable", "service_unavailable", "PostgreSQL cannot be used: connection refused"),
    ),
}
not_ready: dict[str, Any] = _problem(
    "A dependency of the service is unavailable",
    _example(503, "Service Unavailable", "not_ready", "redis: Redis cannot be used: connection refused")
    | {"ready": False, "dependencies": {"redis": {"ok": False, "latency": 0.002, "message": "connection refused"}}},
)


def operation_id(route: APIRoute) -> str:
    """The name of a call in generated clients: that of its function."""
    return route.name


def _name_items(node: Any) -> None:
    """Give each list whose entries may be anything the empty schema for them: generators of clients require one."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if each.get("type") == "array" and "prefixItems" not in each:
                each.setdefault("items", {})
            waiting += [value for name, value in each.items() if name not in ("example", "examples", "default")]
        elif isinstance(each, list):
            waiting += each


def _name_not_modified(schema: dict[str, Any]) -> None:
    """Every list has an ETag (`paging.page`)."""
    for calls in schema["paths"].values():
        answers = calls.get("get", {}).get("responses", {})
        shown = answers.get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if str(shown.get("$ref", "")).endswith("Page"):
            answers.setdefault("304", not_modified)


class DocumentedApp(FastAPI):
    """FastAPI with the schemas of the bodies that handlers parse themselves, and with our own way to a route."""

    def build_middleware_stack(self) -> ASGIApp:
        return dispatch.stack(self)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            wanted: list[type[BaseModel]] = [*dict.fromkeys(_BODIES), Problem]
            _, found = models_json_schema([(model, "validation") for model in wanted], ref_template=_REFERENCE)
            schema = super().openapi()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
            _name_items(schema)
            _name_not_modified(schema)
        return self.openapi_schema or {}
