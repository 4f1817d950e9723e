"""Sentences about runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF
from ccat_workflow_manager.dashboard.words.plain import count, ordinal


def groups(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by group; groups without step runs are 0."""
    found = dict.fromkeys(("done", "run", "queue", "wait", "stop", "fail"), 0)
    for status, number in counts.items():
        found[GROUP_OF[status]] += number
    return found


def total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def run_duration(run: Mapping[str, Any]) -> str:
    """How long the run has been going on, or took."""
    if run["started_at"] is None:
        return ""
    return times.age(times.seconds_between(run["started_at"], run["finished_at"] or times.now()))


def run_why(run: Mapping[str, Any]) -> str:
    """Why a run is as it is, in one line of a list."""
    found = groups(run["counts"])
    if run["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
        return run["status_reason"] or (run["caveats"][0]["text"] if run["caveats"] else "")
    if run["cancel_requested_at"] is not None:
        return "is being cancelled"
    if run["paused"]:
        return "the run is paused"
    if run["status_reason"]:
        return str(run["status_reason"])
    parts = [f"{found[group]:,} {word}" for group, word in (("run", "running"), ("queue", "in queue")) if found[group]]
    if not parts:
        waits = "waits to be started" if run["status"] == "PENDING" else "waits to go on"
        parts.append(run.get("waiting_for") or waits)
    if found["fail"]:
        parts.append(f"{found['fail']:,} failed")
    return ", ".join(parts)


def left(run: Mapping[str, Any]) -> str:
    """How long the rest of a run may take, by what is done of it."""
    done, whole = run["counts"]["COMPLETED"], total(run["counts"])
    spent = times.since(run["started_at"])
    if spent is None or done * 20 < whole or done >= whole:
        return ""
    return f"~ {times.age(spent * (whole - done) / done)} left"


def step_note(step: Mapping[str, Any], before: Sequence[str]) -> tuple[str, str]:
    """The status of a whole step, and a short note about it."""
    found, everything = groups(step["counts"]), total(step["counts"])
    many = f"{everything:,} · " if everything > 1 else ""
    if found["fail"] and not (found["run"] or found["queue"] or found["wait"]):
        return "FAILED", f"{found['fail']:,} of {everything:,} failed" if everything > 1 else "failed"
    if found["run"] or found["queue"]:
        doing_ = f"{found['run']:,} running" if found["run"] else f"{found['queue']:,} queued"
        status = "RUNNING" if found["run"] else "SUBMITTED"
        return status, f"{found['done']:,} of {everything:,} · {doing_}" if everything > 1 else doing_.split(" ", 1)[1]
    if found["done"] == everything:
        retried = f"{step['retried']:,} retried" if step["retried"] else times.duration(step["mean"])
        return "COMPLETED", f"{many}{retried}" if many or retried else "completed"
    if found["wait"]:
        if before:
            waits = f"waits for {before[0] if len(before) == 1 else f'{len(before)} steps'}"
            return "PENDING", f"{many}{waits}"
        return "PENDING", f"{found['done']:,} of {everything:,}" if everything > 1 else "waits"
    status = "CANCELLED" if step["counts"].get("CANCELLED") else "SKIPPED"
    word = " or ".join(each.lower() for each in ("CANCELLED", "SKIPPED") if step["counts"].get(each))
    return status, f"{found['stop']:,} of {everything:,} {word}" if found["done"] else f"{many}{word}"


def key_note(step_run: Mapping[str, Any], *, several: bool) -> str:
    """What is particular about a step run, at the end of its row."""
    name = f"{step_run['step']}: " if several and step_run.get("step") else ""
    if step_run["status"] == "FAILED":
        return f"{name}{step_run['reason']}"
    if step_run["waiting_for"] and step_run["status"] not in ("COMPLETED", "CANCELLED", "SKIPPED"):
        return f"{name}{step_run['waiting_for']}"
    if step_run["caveats"]:
        return f"{name}{step_run['caveats'][0]['text']}"
    if step_run["attempt"] > 1:
        return f"{name}{ordinal(step_run['attempt'])} attempt"
    return ""


def progress(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How far the run is: pieces of text, each with a class."""
    found, everything = groups(run["counts"]), total(run["counts"])
    pieces = [(f"{found['done']:,} of {everything:,}", "strong"), (" step runs completed", "")]
    parts = [
        ("run", "running", "c-run"),
        ("queue", "queued", ""),
        ("wait", "waiting", ""),
        ("fail", "failed", "c-fail strong"),
    ]
    parts.append(("stop", "skipped or cancelled", ""))
    separator = ". "
    for group, word, kind in parts:
        if found[group]:
            pieces += [(separator, ""), (f"{found[group]:,} {word}", kind)]
            separator = ", "
    rest = left(run).removeprefix("~ ") if run["finished_at"] is None else ""
    return [*pieces, (f". About {rest}." if rest else ".", "")]


def memory_hint(step: Mapping[str, Any]) -> str:
    """What a step could ask for, if it used little of what it asked for."""
    peak, asked, done = step["peak"], step["asked"], step["counts"].get("COMPLETED", 0)
    if not done or not peak or asked <= 0.5 or peak * 3 > asked:
        return ""
    return f"could ask {times.number(max(0.25, round(peak * 1.5, 1)))} GB"


def wait(found: Mapping[str, Any]) -> dict[str, str]:
    """One line of what a run waits for or does."""
    number, status = found["count"], found["status"]
    plural = "step run is" if number == 1 else "step runs are"
    name = found["example"].removesuffix("/main") if number == 1 else count(number, "step run")
    if found["text"] is None and status == "PENDING":
        text = f"{count(number, 'step run')} {'waits' if number == 1 else 'wait'} for steps before"
        return {"shape": "PENDING", "title": text, "text": found["steps"]}
    shape = "WARN" if (found["text"] or "").startswith("action required") else status
    if status == "PENDING":
        return {"shape": shape, "title": f"{name} {'waits' if number == 1 else 'wait'}", "text": found["text"] or ""}
    doing_ = {"RUNNING": "running", "SUBMITTED": "in the queue", "STAGING_DATA": "being prepared"}.get(
        status, "being collected"
    )
    title = f"{name} is {doing_}" if number == 1 else f"{number:,} {plural} {doing_}"
    return {"shape": shape, "title": title, "text": found["text"] or found["steps"]}


_EVENT_WORDS = {
    "created": "was asked for",
    "claimed": "is being prepared",
    "released": "was given back",
    "skipped": "was skipped",
    "job_submitted": "was submitted",
    "job_started": "started",
    "job_succeeded": "ended well",
    "results_collected": "completed",
    "failed": "failed",
    "cancelled": "was cancelled",
    "retried": "is tried again",
    "reused": "was taken over",
    "set_completed": "was set to completed",
    "set_skipped": "was set to skipped",
}


def event(found: Mapping[str, Any]) -> str:
    """What happened to a step run."""
    name = f"{found['step']}/{found['key']}".removesuffix("/main")
    reason = f": {found['reason']}" if found.get("reason") else ""
    return f"{name} {_EVENT_WORDS.get(found['event'], found['event'])}{reason}"


def event_more(found: Mapping[str, Any]) -> str:
    parts = [found.get("text") or "", f"attempt {found['attempt']}" if found["attempt"] > 1 else ""]
    if found["event"] in ("created", "cancelled", "retried") and found["actor"] not in (found.get("text") or ""):
        parts.append(f"by {found['actor']}")
    return " · ".join(part for part in parts if part)
