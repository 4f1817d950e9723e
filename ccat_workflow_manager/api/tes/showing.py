"""From a run to the task that its client asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from ccat_workflow_manager.api.tes.creating import NAME_LABEL, OUTPUT, PIPELINE, step_name
from ccat_workflow_manager.api.tes.documents import View
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.errors import NotFound, ServiceUnavailable
from ccat_workflow_manager.failures import FAILURES, Blame, FailureReason
from ccat_workflow_manager.lifecycle.states import RunStatus, Status

MOST_PRODUCTS = 1000
_LOG_LINES = 200
_RUNNING = {Status.RUNNING, Status.COLLECTING_RESULTS, Status.COMPLETED}
_BEFORE_ITS_PROGRAM = {
    FailureReason.IMAGE_MISSING, FailureReason.IMAGE_INVALID, FailureReason.INPUT_MISSING,
    FailureReason.INPUT_UNREADABLE, FailureReason.INPUT_CHANGED, FailureReason.INPUT_REFUSED, FailureReason.REJECTED,
}  # fmt: skip
"""What its author has to change, though no executor has failed."""

_OPEN = (RunStatus.PENDING, RunStatus.RUNNING)
STATUSES: Mapping[str, tuple[RunStatus, ...]] = {
    **dict.fromkeys(("QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "CANCELING"), _OPEN),
    "COMPLETE": (RunStatus.COMPLETED, RunStatus.FAILED),
    **dict.fromkeys(("EXECUTOR_ERROR", "SYSTEM_ERROR", "PREEMPTED"), (RunStatus.FAILED,)),
    "CANCELED": (RunStatus.CANCELLED,),
}
"""The statuses of runs whose tasks may be in each state. Nothing is UNKNOWN."""


def is_task(run: Mapping[str, Any]) -> bool:
    """Whether a run was made from a task: its pipeline and its label may be another's as well."""
    task = run["parameters"].get("task")
    is_whole = isinstance(task, dict) and isinstance(task.get("executors"), list) and "ignored" in run["parameters"]
    return run["pipeline"] == PIPELINE and NAME_LABEL in run["labels"] and is_whole


def state_of(run: Mapping[str, Any]) -> str:
    """The state of the task of a run with its step runs."""
    steps = run["step_runs"]
    match run["status"]:
        case RunStatus.COMPLETED:
            return "COMPLETE"
        case RunStatus.CANCELLED:
            return "CANCELED"
        case RunStatus.FAILED:
            return _failure(run)
    if run["cancel_requested_at"] is not None:
        return "CANCELING"
    if any(step["status"] in _RUNNING for step in steps):
        return "RUNNING"
    if run["paused"]:
        return "PAUSED"
    return "INITIALIZING" if any(step["status"] == Status.STAGING_DATA for step in steps) else "QUEUED"


def _failure(run: Mapping[str, Any]) -> str:
    """The state of a run that failed: an error of an executor that may fail is none."""
    executors = run["parameters"]["task"]["executors"]
    forgiven = {step_name(number) for number, each in enumerate(executors) if each.get("ignore_error")}
    failed = [step for step in run["step_runs"] if step["status"] == Status.FAILED]
    states = ["COMPLETE" if step["step"] in forgiven and step["exit_code"] else _reason(step) for step in failed]
    return next((state for state in states if state != "COMPLETE"), "COMPLETE")


def _reason(step: Mapping[str, Any]) -> str:
    reason = FailureReason(step["reason"])
    if reason is FailureReason.PREEMPTED:
        return "PREEMPTED"
    of_executor = FAILURES[reason].blame is Blame.USER and reason not in _BEFORE_ITS_PROGRAM
    return "EXECUTOR_ERROR" if of_executor else "SYSTEM_ERROR"


def task_of(
    context: Context, run: Mapping[str, Any], view: View, products: Sequence[Mapping[str, Any]], address: str
) -> dict[str, Any]:
    """The task of a run, in this view. `address` is that of the service, for the addresses of products."""
    shown: dict[str, Any] = {"id": run["id"], "state": state_of(run)}
    if view == "MINIMAL":
        return shown
    document = dict(run["parameters"]["task"])
    if view == "BASIC" and "inputs" in document:
        document["inputs"] = [
            {name: value for name, value in each.items() if name != "content"} for each in document["inputs"]
        ]
    return {
        **document,
        **shown,
        "creation_time": run["created_at"],
        "logs": [_log(context, run, view, products, address)] if run["started_at"] else [],
    }


def _log(
    context: Context, run: Mapping[str, Any], view: View, products: Sequence[Mapping[str, Any]], address: str
) -> dict[str, Any]:
    """All attempts are one log: that of each executor is the log of its last attempt."""
    started = [step for step in run["step_runs"] if step["exit_code"] is not None]
    log: dict[str, Any] = {
        "logs": [_executor_log(context, step, view) for step in started],
        "outputs": _outputs(run["parameters"]["task"].get("outputs"), products, address),
        "metadata": {step["step"]: str(step["job_id"]) for step in run["step_runs"] if step["job_id"]},
        **_times(run),
    }
    if view == "FULL":
        ignored = [
            f"backend_parameters.{name} is not supported and was ignored" for name in run["parameters"]["ignored"]
        ]
        log["system_logs"] = ignored + [
            f"{step['step']}: {step['reason']}: {step['reason_text']}" for step in run["step_runs"] if step["reason"]
        ]
    return log


def _times(row: Mapping[str, Any]) -> dict[str, str]:
    fields = {"start_time": row["started_at"], "end_time": row["finished_at"]}
    return {name: time for name, time in fields.items() if time}


def _executor_log(context: Context, step: Mapping[str, Any], view: View) -> dict[str, Any]:
    log: dict[str, Any] = {"exit_code": step["exit_code"], **_times(step)}
    if view == "FULL":
        for stream in ("stdout", "stderr"):
            try:
                location = context.logs.locate(UUID(step["id"]))
                log[stream] = context.logs.read(location, stream, tail=_LOG_LINES).text
            except (NotFound, ServiceUnavailable) as error:
                log[stream] = f"(the log cannot be read now: {error.message})"
    return log


def _outputs(
    wanted: Sequence[Mapping[str, Any]] | None, products: Sequence[Mapping[str, Any]], address: str
) -> list[dict[str, str]]:
    """The products that the task names as outputs; all of them if it names none."""
    found = []
    for product in products:
        path = f"{OUTPUT}/{product['path']}"
        if wanted is None or any(_is_meant(path, each["path"]) for each in wanted):
            url = f"{address}/api/v1/products/{product['id']}/content"
            found.append({"url": url, "path": path, "size_bytes": str(product["size"])})
    return found


def _is_meant(path: str, wanted: str) -> bool:
    return path == wanted or path.startswith(f"{wanted}/") or fnmatchcase(path, wanted)
