"""Sentences about pipelines and their forms."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.words.plain import count
from ccat_workflow_manager.errors import Fault


def pipeline_facts(runs: Sequence[Mapping[str, Any]], usage: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Figures about the last runs."""
    finished = [run for run in runs if run["finished_at"]]
    completed = [run for run in finished if run["status"] == "COMPLETED"]
    seconds = sorted(run["seconds"] or 0 for run in completed)
    facts = {"Last runs": f"{len(runs):,}", "Live": f"{len(runs) - len(finished):,}"}
    if finished:
        facts["Of these completed"] = times.percent(len(completed), len(finished))
    if seconds:
        high = seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))]
        facts["Takes"] = f"{times.duration(seconds[len(seconds) // 2])} median, 95 % within {times.duration(high)}"
    if usage:
        facts["CPU hours"] = times.number(sum(step["cpu_hours"] or 0 for step in usage.values()))
        facts["Saved by a retry"] = f"{sum(step['saved_by_retry'] for step in usage.values()):,} step runs"
    return facts


def advice(asked: float, usage: Mapping[str, Any]) -> tuple[str, str]:
    """What a step could ask for instead: a tone and a text."""
    most = usage["most_memory"]
    if usage["mostly"] == "out_of_memory":
        return "warn", f"should ask {times.number(asked * 2)} GB"
    if most and usage["completed"] >= 5 and most < asked / 3 and asked > 0.5:
        return "", f"could ask {times.number(max(0.25, round(most * 1.5, 1)))} GB"
    return "", ""


def start(total: int) -> str:
    return f"{count(total, 'step run')}." if total else ""


def submit_command(name: str, parameters: Mapping[str, Any]) -> str:
    """The same as a command."""
    given = [f"-p {shlex.quote(f'{key}={json.dumps(value, ensure_ascii=False)}')}" for key, value in parameters.items()]
    return " ".join(["ccat-wm run submit", shlex.quote(name), *given])


def faults_by_field(faults: Sequence[Fault]) -> tuple[dict[str, str], list[str]]:
    """The faults of each field of a form, and those that belong to none."""
    by_field: dict[str, str] = {}
    general = []
    for fault in faults:
        path = fault.path.removeprefix("parameters.").removeprefix("parameters")
        name = path.split("[")[0].split(".")[0]
        inside = path.removeprefix(name).removeprefix(".")
        if name:
            by_field.setdefault(name, f"{inside}: {fault.message}" if inside else fault.message)
        else:
            general.append(fault.message)
    return by_field, general
