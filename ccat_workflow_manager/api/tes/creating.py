"""From a task to the request for its run. What the service cannot do is refused, with the path of the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from posixpath import normpath
from typing import Any

from ccat_workflow_manager.api.tes.documents import Executor, Input, Output, Resources, TesTask
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.definition.project import DEFAULT_PROJECT
from ccat_workflow_manager.errors import Fault, RequestError
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.json_values import invalid
from ccat_workflow_manager.services.run_request import RunRequest

PIPELINE = "tes"
"""The name of the inline pipeline of every task."""
NAME_LABEL = "tes-name"
"""The label with the name of a task; a run without it is no task."""
INPUT, CODE, OUTPUT, WORKSPACE = (f"/workflow/{each}" for each in ("input", "code", "output", "workspace"))
PRODUCTS = "products:"

_WILD = re.compile(r"[*?\[]")
_SPEC_PATHS = (
    (r"^spec\.steps\[(\d+)\]\.environment", r"executors[\1].env"),
    (r"^spec\.steps\[(\d+)\]\.resources.*|^spec\.steps\[(\d+)\]\.backend|^backend|^project|^priority", "resources"),
    (r"^spec\.steps\[(\d+)\]", r"executors[\1]"),
    (r"^spec\.(inputs|files)", "inputs"),
    (r"^labels", "tags"),
    (r"^spec\.", ""),
)


BACKEND_PARAMETERS: dict[str, Callable[[str], Any]] = {
    "account": str,
    "backend": str,
    "gpu": int,
    "partition": str,
    "priority": int,
    "project": str,
    "time_hours": float,
}
"""What `backend_parameters` may hold, and how its texts are read."""


def run_request(task: TesTask, who: Identity, disk_limit_gb: float) -> RunRequest:
    """The run of a task. Raises Invalid with every fault."""
    faults: list[Fault] = []
    resources = task.resources or Resources()
    chosen, unknown = _parameters(resources, faults)
    step_resources = _resources(resources, chosen, disk_limit_gb, faults)
    inputs, files = _inputs(task.inputs or [], faults)
    _check_outputs(task.outputs or [], faults)
    if task.volumes:
        faults.append(Fault("volumes", f"are not supported: an executor finds what those before it wrote to {OUTPUT} "
                                       "at /workflow/upstream/executor-N/main"))  # fmt: skip
    if NAME_LABEL in (task.tags or {}):
        faults.append(Fault(f"tags.{NAME_LABEL}", "is a tag of the service"))
    steps = [_step(number, each, task, step_resources, faults) for number, each in enumerate(task.executors)]
    if faults:
        raise invalid(faults)
    document = task.model_dump(exclude_none=True)
    if unknown:
        given = document["resources"]["backend_parameters"]
        document["resources"]["backend_parameters"] = {name: given[name] for name in given if name not in unknown}
    spec = {
        "name": PIPELINE,
        "description": task.description or "",
        "parameters": {"type": "object", "properties": {"task": {"type": "object"}, "ignored": {"type": "array"}}},
        "inputs": inputs,
        "files": files,
        "steps": steps,
    }
    own = next(iter(who.projects)) if who.projects is not None and len(who.projects) == 1 else DEFAULT_PROJECT
    request = {
        "spec": spec,
        "parameters": {"task": document, "ignored": unknown},
        "project": chosen.get("project", own),
        "priority": chosen.get("priority"),
        "backend": chosen.get("backend"),
        "labels": {**(task.tags or {}), NAME_LABEL: task.name or ""},
    }
    return validated(RunRequest, request)


@contextmanager
def faults_of_task() -> Iterator[None]:
    """Give the faults of a run request the paths of the task that it was made from."""
    try:
        yield
    except RequestError as error:
        if not error.faults:
            raise
        raise type(error)(faults=[Fault(_path(each.path), each.message) for each in error.faults]) from None


def _path(path: str) -> str:
    for pattern, replacement in _SPEC_PATHS:
        if re.search(pattern, path):
            return re.sub(pattern, replacement, path)
    return path


def _literal(text: str) -> str:
    """A text of a task, in which `${...}` means nothing."""
    return text.replace("${", "$${")


def _parameters(resources: Resources, faults: list[Fault]) -> tuple[dict[str, Any], list[str]]:
    """The backend parameters that the service knows, as values, and the names of the others."""
    chosen: dict[str, Any] = {}
    unknown = []
    for name, text in (resources.backend_parameters or {}).items():
        path, read = f"resources.backend_parameters.{name}", BACKEND_PARAMETERS.get(name.lower())
        if read is None:
            unknown.append(name)
            if resources.backend_parameters_strict:
                faults.append(Fault(path, f"is not supported; known: {', '.join(BACKEND_PARAMETERS)}"))
            continue
        try:
            chosen[name.lower()] = read(text)
        except ValueError:
            faults.append(Fault(path, f"must be a number, not {text!r:.100}"))
    return chosen, unknown


def _resources(
    resources: Resources, chosen: dict[str, Any], disk_limit_gb: float, faults: list[Fault]
) -> dict[str, Any]:
    if disk_limit_gb and resources.disk_gb and resources.disk_gb > disk_limit_gb:
        faults.append(Fault("resources.disk_gb", f"is more than the {disk_limit_gb:g} GB that a job may use here"))
    zones = resources.zones or []
    if len(zones) > 1:
        faults.append(Fault("resources.zones", "may name one zone, which is a partition of the scheduler"))
    found = {
        "cpu": resources.cpu_cores,
        "memory_gb": resources.ram_gb,
        "time_hours": chosen.get("time_hours"),
        "gpu": chosen.get("gpu"),
        "partition": chosen.get("partition") or (zones[0] if zones else None),
        "account": chosen.get("account"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _below(path: str, root: str) -> str | None:
    """The name of a path below a directory; None if it is elsewhere."""
    return path[len(root) + 1 :] if path.startswith(f"{root}/") and normpath(path) == path else None


def _inputs(inputs: list[Input], faults: list[Fault]) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The inputs of the pipeline, and its files."""
    found: list[dict[str, str]] = []
    files: dict[str, Any] = {}
    for number, each in enumerate(inputs):
        at = f"inputs[{number}]"
        if each.content:
            if (name := _below(each.path, CODE)) is None:
                faults.append(Fault(f"{at}.path", f"must be below {CODE}/, where files with a content are"))
            else:
                files[name] = {"text": each.content}
            continue
        if not each.url:
            faults.append(Fault(f"{at}.url", "is required for an input without content"))
        elif (name := _below(each.path, INPUT)) is None:
            faults.append(Fault(f"{at}.path", f"must be below {INPUT}/, where all inputs with a url are"))
        elif _WILD.search(each.url):
            faults.append(Fault(f"{at}.url", "must name one file or directory, not a pattern"))
        else:
            source = re.sub("^file://(localhost)?(?=/)", "", each.url)
            found.append({"from": _literal(source), "to": _literal(name)})
    return found, files


def _check_outputs(outputs: list[Output], faults: list[Fault]) -> None:
    for number, each in enumerate(outputs):
        at = f"outputs[{number}]"
        if each.path != OUTPUT and _below(each.path, OUTPUT) is None:
            faults.append(Fault(f"{at}.path", f"must be below {OUTPUT}/: what a program writes there is kept"))
        if not each.url.startswith(PRODUCTS):
            message = f"must be {PRODUCTS}NAME: the service keeps outputs and copies them nowhere"
            faults.append(Fault(f"{at}.url", f"{message}; `logs` of the finished task has their addresses"))


def step_name(number: int) -> str:
    """The step of the executor with this number, which counts from 0."""
    return f"executor-{number + 1}"


def _step(
    number: int, executor: Executor, task: TesTask, resources: dict[str, Any], faults: list[Fault]
) -> dict[str, Any]:
    step: dict[str, Any] = {
        "name": step_name(number),
        "image": _literal(_image(executor.image)),
        "command": [_literal(word) for word in _command(number, executor, faults)],
        "environment": {name: _literal(text) for name, text in (executor.env or {}).items()},
        "resources": resources,
    }
    # One that may fail is no proof that those before it have not, so each waits for all.
    step["depends_on"] = [
        {"step": step_name(before), "weak": bool(each.ignore_error)}
        for before, each in enumerate(task.executors[:number])
    ]
    return step


def _image(name: str) -> str:
    """TES means images of registries; a path of a file stays one."""
    return name if "://" in name or name.startswith("/") or name.endswith(".sif") else f"docker://{name}"


def _command(number: int, executor: Executor, faults: list[Fault]) -> list[str]:
    """The command; with a directory or streams of its own, a shell of the image sets these up.

    The paths are arguments: where there is no container, those of the contract become paths of the host.
    """
    readable, writable = (INPUT, CODE, OUTPUT, WORKSPACE, "/workflow/upstream"), (OUTPUT, WORKSPACE)
    shell, paths = "", []
    for field, act, roots in (
        ("workdir", 'mkdir -p "$1" && cd "$1"', writable),
        ("stdin", 'exec <"$1"', readable),
        ("stdout", 'mkdir -p "${1%/*}" && exec >"$1"', writable),
        ("stderr", 'mkdir -p "${1%/*}" && exec 2>"$1"', writable),
    ):
        path = getattr(executor, field)
        if path is None:
            continue
        if path not in roots and all(_below(path, root) is None for root in roots):
            faults.append(Fault(f"executors[{number}].{field}", f"must be below {' or '.join(roots)}"))
        shell += f"{act} || exit; shift; "
        paths.append(path)
    return [*(["/bin/sh", "-c", f'{shell}exec "$@"', "sh", *paths] if paths else ()), *executor.command]
