"""The field of a definition that was probably meant, by names from other workflow systems and by similar names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from ccat_workflow_manager.json_values import similar

_FIELDS = {
    "environment": ("env", "environ", "envs", "env_vars", "variables", "vars"),
    "time_hours": ("walltime", "wall_time", "time", "hours", "time_limit", "timelimit", "timeout", "max_time"),
    "image": ("container", "docker", "docker_image", "singularity", "apptainer", "sif", "image_name"),
    "files": ("script", "scripts", "code", "file", "source"),
    "memory_gb": ("mem", "memory", "ram", "mem_gb", "memory_mb", "mem_per_cpu"),
    "cpu": ("cpus", "cores", "ncpus", "core", "threads", "cpus_per_task", "ntasks", "processors"),
    "gpu": ("gpus", "ngpus", "gres"),
    "partition": ("queue",),
    "account": ("project_account", "billing"),
    "depends_on": ("needs", "after", "requires", "depends", "dependencies", "dependency", "upstream", "parents"),
    "command": ("cmd", "args", "run", "exec", "entrypoint", "commands", "argv", "shell"),
    "foreach": ("for_each", "matrix", "loop", "with_items", "scatter", "items", "map", "over"),
    "inputs": ("input", "data", "in", "input_files", "stage_in"),
    "max_attempts": ("retries", "attempts", "max_retries", "tries", "limit"),
    "backoff_seconds": ("backoff", "delay", "wait_seconds"),
    "parameters": ("params", "parameter", "arguments", "config"),
    "steps": ("tasks", "jobs", "stages", "processes", "rules"),
    "name": ("id", "title", "label"),
    "description": ("desc", "doc", "docs", "help", "comment"),
    "defaults": ("default",),
    "backend": ("executor", "scheduler", "runner", "site"),
}
_MEANT = {synonym: field for field, synonyms in _FIELDS.items() for synonym in synonyms}


def meant(name: str, model: type[BaseModel]) -> str | None:
    """The field of the model, or of a part of it such as `resources.cpu`, that was probably meant; None: no idea."""
    wanted = name.lower().replace("-", "_")
    fields = [field.alias or name for name, field in model.model_fields.items()]
    if wanted in fields:
        return wanted
    inner = {field: f"{part}.{field}" for part, other in _parts(model) for field in other.model_fields}
    for each in (wanted, _MEANT.get(wanted)):
        if each is not None and (each in fields or each in inner):
            return each if each in fields else inner[each]
    close = similar(name, [*fields, *(each for each in inner if each not in fields)])
    return close if close is None or close in fields else inner[close]


def meant_among(name: str, known: Collection[str]) -> str | None:
    """Which of these names was probably meant; None: no idea."""
    synonym = _MEANT.get(name.lower().replace("-", "_"))
    return synonym if synonym in known else similar(name, known)


def _parts(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that hold one other model."""
    for name, field in model.model_fields.items():
        if found := model_in(field.annotation, lists=False):
            yield name, found


def model_in(annotation: Any, *, lists: bool = True) -> type[BaseModel] | None:
    """The model that a field holds, directly or, with `lists`, in a list or a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if not lists and getattr(annotation, "__origin__", None) in (tuple, list, dict):
        return None
    for inner in get_args(annotation):
        if found := model_in(inner, lists=lists):
            return found
    return None
