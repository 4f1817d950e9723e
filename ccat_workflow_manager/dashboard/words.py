"""Sentences made from facts. Pages say what is the case in these words, and nowhere else are sentences made."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF
from ccat_workflow_manager.failures import FAILURES, FailureReason

STATUS_WORDS = {
    "PENDING": "Pending",
    "STAGING_DATA": "Staging",
    "SUBMITTED": "Submitted",
    "RUNNING": "Running",
    "COLLECTING_RESULTS": "Collecting",
    "COMPLETED": "Completed",
    "FAILED": "Failed",
    "CANCELLED": "Cancelled",
    "SKIPPED": "Skipped",
    "WARN": "Needs attention",
    "HELD": "Held back",
    "PAUSED": "Paused",
    "OK": "ok",
    "OFF": "not set up",
}
DOING = {"user": "pipeline", "site": "site", "us": "workflow manager"}
"""Whose doing a failure is, by the word of the API."""

_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


# --- text of others -------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text with control characters as symbols; tabs and line ends stay."""
    if text.isprintable():
        return text
    return "".join(_symbol(each) if _is_control(each) else each for each in text)


def _is_control(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")


def _symbol(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def shown(value: object) -> str:
    """A JSON value in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- small words ----------------------------------------------------------------------------------------------------


def count(number: int, one: str, many: str = "") -> str:
    """`1 run`, `3 runs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def written(number: int) -> str:
    """A small number as a word at the beginning of a sentence."""
    return _NUMBERS[number] if 0 <= number < len(_NUMBERS) else f"{number:,}"


def ordinal(number: int) -> str:
    if 0 < number < len(_ORDINALS):
        return _ORDINALS[number]
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def capped(number: int, most: int) -> str:
    """A count that stops at `most`."""
    return f"{most:,}+" if number >= most else f"{number:,}"


def doing(reason: str | None) -> str:
    """Whose doing a failure with this reason is."""
    info = FAILURES.get(FailureReason(reason)) if reason in set(FailureReason) else None
    return DOING[info.blame] if info else ""


def meaning(reason: str | None) -> str:
    """What a reason means."""
    return FAILURES[FailureReason(reason)].text if reason in set(FailureReason) else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b and 4 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


# --- runs -----------------------------------------------------------------------------------------------------------


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
        return run["status_reason"] or ""
    if run["cancel_requested_at"] is not None:
        return "is being cancelled"
    if run["paused"]:
        return "the run is paused"
    if run["status_reason"]:
        return str(run["status_reason"])
    parts = [f"{found[group]:,} {word}" for group, word in (("run", "running"), ("queue", "in queue")) if found[group]]
    if found["fail"]:
        parts.append(f"{found['fail']:,} failed")
    return ", ".join(parts) or "waits to be started"


def left(run: Mapping[str, Any]) -> str:
    """How long the rest of a run may take, by what is done of it."""
    done, whole = run["counts"]["COMPLETED"], total(run["counts"])
    spent = times.since(run["started_at"])
    if spent is None or done * 20 < whole or done >= whole:
        return ""
    return f"~ {times.age(spent * (whole - done) / done)} left"


# --- the service ----------------------------------------------------------------------------------------------------


def overview_title(causes: int) -> str:
    if causes == 0:
        return "Everything is well."
    return f"{written(causes)} {'thing needs' if causes == 1 else 'things need'} a person."


def away(state: Mapping[str, Any]) -> str:
    return f"away {times.age(times.since(state['problem_since']))}" if state["problem"] else ""


def overview_text(view: Mapping[str, Any], most: int) -> list[tuple[str, bool]]:
    """The sentences below the title, as pieces of text that are emphasised or not."""
    live = view["live"]["PENDING"] + view["live"]["RUNNING"]
    jobs = sum(state.live for state in view["states"].values())
    ready = sum(state.ready for state in view["states"].values())
    held = sum(cause["count"] for cause in view["causes"])
    pieces: list[tuple[str, bool]] = []
    if held:
        pieces.append((f"They hold {count(held, 'step run')}. Everything else is well: ", False))
    if not live:
        return [*pieces, ("No run is live.", False)]
    pieces += [(f"{capped(live, most)} {'run' if live == 1 else 'runs'}", True), (" live, ", False)]
    pieces += [(count(jobs, "job"), True), (" at the backends", False)]
    pieces.append(
        (f", {count(ready, 'step run')} could start now." if ready else ", nothing waits for a place.", False)
    )
    return pieces


def cause(found: Mapping[str, Any]) -> dict[str, Any]:
    """One thing that needs a person: a title, what is known, whose doing it is, and what can be done."""
    made = _CAUSES[found["kind"]](found)
    return {
        "kind": found["kind"],
        "id": found["id"],
        "since": found["since"],
        "example": found.get("example"),
        "backend": found.get("backend"),
        "raw": dict(found),
        "href": "",
        "jobs": [],
        **made,
    }


def _breaker(found: Mapping[str, Any]) -> dict[str, Any]:
    probe = "One of them is tried now." if found["probing"] else ""
    if not probe and found["probe_at"]:
        probe = f"One is tried again at {times.clock(found['probe_at'])}."
    return {
        "icon": "HELD",
        "tone": "fail",
        "title": f"{found['pipeline']} / {found['step']} fails for everybody; the rest of it is held back",
        "code": found["text"],
        "text": probe or "No probe is planned: release it when the cause is gone.",
        "count": found["step_runs"],
        "unit": f"{'step run' if found['step_runs'] == 1 else 'step runs'} in {count(found['runs'], 'run')}",
        "doing": "pipeline",
        "example": found["failure"] or found["example"],
    }


def _backend(found: Mapping[str, Any]) -> dict[str, Any]:
    retry = f" Next try at {times.clock(found['retry_at'])}." if found["retry_at"] else ""
    return {
        "icon": "unplug",
        "tone": "warn",
        "title": f"{found['backend']} does not answer",
        "code": found["text"],
        "text": f"Its jobs go on and are found again.{retry}",
        "count": found["ready"] + found["live"],
        "unit": f"step runs: {found['ready']:,} wait, {count(found['live'], 'job')} unseen",
        "doing": "site",
        "href": "/backends",
    }


def _action(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "icon": "hand",
        "tone": "warn",
        "title": f"Held at {found['backend']} until somebody acts there",
        "code": "",
        "text": found["text"],
        "count": found["step_runs"],
        "unit": f"{'job' if found['step_runs'] == 1 else 'jobs'} in {count(found['runs'], 'run')}",
        "doing": "site",
        "jobs": found["jobs"],
    }


def _cancel(found: Mapping[str, Any]) -> dict[str, Any]:
    number = found["step_runs"]
    return {
        "icon": "octagon-x",
        "tone": "warn",
        "title": f"{written(number)} {'cancel is' if number == 1 else 'cancels are'} not confirmed",
        "code": found["text"] or "",
        "text": f"{found['backend']} is asked again; stop the jobs there if it cannot.",
        "count": number,
        "unit": f"{'step run' if number == 1 else 'step runs'} at {found['backend']}",
        "doing": "site",
    }


def _stray(found: Mapping[str, Any]) -> dict[str, Any]:
    number = found["jobs_count"]
    return {
        "icon": "triangle-alert",
        "tone": "warn",
        "title": f"{count(number, 'job')} of attempts that are over {'goes' if number == 1 else 'go'} on",
        "code": found["text"] or "",
        "text": f"Stop {'it' if number == 1 else 'them'} at {found['backend']}.",
        "count": number,
        "unit": f"{'job' if number == 1 else 'jobs'} at {found['backend']}",
        "doing": "workflow manager",
        "href": "/backends",
    }


_CAUSES = {"breaker": _breaker, "backend": _backend, "action": _action, "cancel": _cancel, "stray": _stray}


# --- one run --------------------------------------------------------------------------------------------------------


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
    if step["counts"].get("CANCELLED"):
        return "CANCELLED", f"{many}cancelled"
    return "SKIPPED", f"{many}skipped"


def key_note(step_run: Mapping[str, Any], *, several: bool) -> str:
    """What is particular about a step run, at the end of its row."""
    name = f"{step_run['step']}: " if several and step_run.get("step") else ""
    if step_run["status"] == "FAILED":
        return f"{name}{step_run['reason']}"
    if step_run["waiting_for"] and step_run["status"] not in ("COMPLETED", "CANCELLED", "SKIPPED"):
        return f"{name}{step_run['waiting_for']}"
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
