"""What OpenAPI says beyond the models: bodies, examples and problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ccat_workflow_manager.api import models
from ccat_workflow_manager.api.body import YAML_TYPES
from ccat_workflow_manager.api.problems import MEDIA_TYPE
from ccat_workflow_manager.definition.spec import PipelineSpec

_REFERENCE = "#/components/schemas/{model}"
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
        "value": {"spec": {"name": "hello", "steps": [{"name": "say", "command": ["echo", "hello"]}]}, "priority": 10}
    },
}
BULK_EXAMPLES = {
    "two runs": {"value": {"runs": [_RUN, {"pipeline": "chai-map", "parameters": {"scans": [103]}, "priority": 5}]}}
}
CHOICE_EXAMPLES = {
    "by ids": {"value": {"ids": [_ID]}},
    "by filter": {"value": {"filter": {"pipeline": "chai-map", "label": "source:Orion KL"}}},
}
PATCH_EXAMPLES = {"disable": {"value": {"enabled": False}}, "more urgent": {"value": {"priority": 100}}}


def body(schema: str, examples: dict[str, Any]) -> dict[str, Any]:
    """The body of a call that parses it by hand."""
    content = {"schema": {"$ref": _REFERENCE.format(model=schema)}, "examples": examples}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


definition: dict[str, Any] = body("PipelineSpec", {"two steps": {"value": _DEFINITION}})
definition["requestBody"]["content"] |= {
    YAML_TYPES[0]: {"schema": {"type": "string", "description": "The same as YAML."}}
}

same_run: dict[str, Any] = {"model": models.Run, "description": "The run that the same request made before"}
same_runs: dict[str, Any] = {"model": models.Ids, "description": "The runs that the same request made before"}
same_pipeline: dict[str, Any] = {"model": models.AppliedPipeline, "description": "There already, with equal content"}
log: dict[str, Any] = {
    "description": "The text",
    "content": {"text/plain": {"schema": {"type": "string"}}},
    "headers": {
        "X-Log-Size": {
            "description": "How many bytes the log has; not where only the backend has its end.",
            "schema": {"type": "integer"},
        },
        "X-Log-Next-Offset": {
            "description": "With `tail` or `offset`: the `offset` of what follows.",
            "schema": {"type": "integer"},
        },
        "X-Log-Truncated": {
            "description": "`true`: there is more before this that was asked for too.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
    },
}
content: dict[str, Any] = {
    "description": "The file, or a tar archive",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
    },
}


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
        "The service cannot answer now",
        _example(503, "Service Unavailable", "service_unavailable", "PostgreSQL cannot be used: connection refused"),
    ),
}
not_ready: dict[str, Any] = _problem(
    "Something that the service needs is not there",
    _example(503, "Service Unavailable", "not_ready", "redis: Redis cannot be used: connection refused")
    | {"ready": False, "dependencies": {"redis": {"ok": False, "latency": 0.002, "message": "connection refused"}}},
)


class DocumentedApp(FastAPI):
    """FastAPI, with the schemas of the bodies that are parsed by hand."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            wanted: list[type[BaseModel]] = [*models.BODIES, models.Problem, PipelineSpec]
            _, found = models_json_schema([(each, "validation") for each in wanted], ref_template=_REFERENCE)
            schema = super().openapi()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        return self.openapi_schema or {}
