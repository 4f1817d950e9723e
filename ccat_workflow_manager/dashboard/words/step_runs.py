"""Sentences about one step run and its attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.words.plain import NUMBERS, STATUS_WORDS, count, meaning, ordinal
from ccat_workflow_manager.failures import failure_info

FILE_GONE = (
    "This file is not to be seen from here: the attempt has not written it, it is removed, or another machine has it."
)


def _of_attempts(step_run: Mapping[str, Any]) -> str:
    number, most = step_run["attempt"], step_run["max_attempts"]
    if step_run["finished_at"] is not None:
        return f", after {count(number, 'attempt')}" if number > 1 else ""
    if most == 1:
        return ""
    return f", {ordinal(number)} of {NUMBERS[most].lower() if most < len(NUMBERS) else most} attempts"


def step_run(found: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The state of a step run: a sentence that is emphasised, and what explains it."""
    status, last = found["status"], attempts[-1] if attempts else None
    earlier = _earlier(attempts[:-1])
    if status == "PENDING":
        text = found["waiting_for"] or "waits to be started"
        return f"Pending: {text}.", earlier
    if status in ("RUNNING", "SUBMITTED", "STAGING_DATA", "COLLECTING_RESULTS"):
        present = last or found
        begun = present["started_at"] or found["submitted_at"] or present.get("claimed_at")
        verb = {"RUNNING": "Running", "SUBMITTED": "In the queue", "STAGING_DATA": "Being prepared"}.get(
            status, "Collecting"
        )
        wait_ = f" {found['waiting_for']}." if found["waiting_for"] else ""
        return f"{verb} for {times.duration(times.since(begun))}{_of_attempts(found)}.", (earlier + wait_).strip()
    if status == "COMPLETED":
        took = f" in {times.duration(found['wall_time_seconds'])}" if found["wall_time_seconds"] is not None else ""
        attempt = f", in its {ordinal(found['attempt'])} attempt" if found["attempt"] > 1 else ""
        return f"Completed{took}{attempt}.", " ".join(filter(None, (_sentence(found["reason_text"] or ""), earlier)))
    reason = meaning(found["reason"])
    if status == "FAILED":
        text = _sentence(found["reason_text"] or reason)
        return f"Failed: {found['reason']}{_of_attempts(found)}.", f"{text} {_advice(found)}".strip()
    return f"{STATUS_WORDS[status]}.", found["reason_text"] or reason


def _sentence(text: str) -> str:
    return text if not text or text[-1] in ".!?:;" else f"{text}."


def relation(other: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How a step stands to a step run: which waits or waited for which, and how far the other is."""
    if other["is_before"]:
        verb = "it waits for this step" if found["status"] == "PENDING" else "it waited for this step"
    else:
        verb = "waits for it" if found["finished_at"] is None else "waited for it"
    if other["id"] and other["total"] == 1:
        return f"{verb}, {STATUS_WORDS[other['status']].lower()}"
    return f"{verb}, {other['total'] - other['remaining']:,} of {other['total']:,} completed"


def no_products(found: Mapping[str, Any]) -> str:
    """Why a step run has no products."""
    if found["finished_at"] is None:
        return "None yet. They are published when the attempt has succeeded."
    if found["status"] == "COMPLETED":
        return "None: the program left nothing in its output directory."
    return "None: only a step run that completes publishes what its program wrote."


def _earlier(attempts: Sequence[Mapping[str, Any]]) -> str:
    """How the attempts before ended, and what they had."""
    failed = [each for each in attempts if each["reason"]]
    if not failed:
        return ""
    last = failed[-1]
    return f"The {ordinal(last['number'])} ended with {last['reason']} at {last['resources'].get('memory_gb')} GB."


def _advice(found: Mapping[str, Any]) -> str:
    info = failure_info(found["reason"])
    if info is None:
        return ""
    return {
        "no": "The same attempt would fail again: change its cause before a retry.",
        "later": "A retry can succeed later.",
        "more_memory": "A retry with more memory can succeed.",
        "more_time": "A retry with more time can succeed.",
    }[info.retry]


def ended_by(attempt: Mapping[str, Any]) -> str:
    if attempt["finished_at"] is None:
        return "goes on"
    if attempt["signal"]:
        return f"signal {attempt['signal']}"
    return f"exit code {attempt['exit_code']}" if attempt["exit_code"] is not None else "no exit code known"


def again(before: Mapping[str, Any], attempt: Mapping[str, Any]) -> str:
    """What is different in an attempt that follows another one: `with 8 GB, after a pause of 1 min 41 s`."""
    had, has = before["resources"], attempt["resources"]
    units = (("memory_gb", "GB"), ("time_hours", "h"), ("cpu", "CPUs"))
    changed = [f"{times.number(has[name])} {unit}" for name, unit in units if has.get(name) != had.get(name)]
    pause = times.seconds_between(before["finished_at"], attempt["claimed_at"])
    parts = [f"with {' and '.join(changed)}"] if changed else []
    parts += [f"after a pause of {times.duration(pause)}"] if pause is not None and pause >= 1 else []
    return ", ".join(parts)


def placed(attempt: Mapping[str, Any]) -> str:
    """`on node-7, 22 s in queue`, as far as it is known."""
    seconds = times.seconds_between(attempt["submitted_at"], attempt["started_at"])
    queued = "" if seconds is None else f"{times.age(seconds)} in queue"
    return ", ".join(part for part in (f"on {attempt['node']}" if attempt["node"] else "", queued) if part)


def next_memory(step: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """What memory the next attempt would have, if this one runs out of it."""
    retry = step.get("retry") or {}
    memory = float(last["resources"].get("memory_gb") or 0) * float(retry.get("memory_factor", 2))
    cap = retry.get("memory_cap_gb")
    return f"{times.number(min(memory, cap) if cap else memory)} GB after out of memory"
