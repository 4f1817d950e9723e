"""Sentences about the service: is it well, and what needs a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.words.plain import capped, count, meaning, written
from ccat_workflow_manager.lifecycle.causes import Cause


def events_shown(number: int, looked_to: datetime | None) -> str:
    """How many events a page shows, and how far it looked if that was not to the end."""
    shown = f"{number} shown" if number else "None of the events that this page looked at"
    return shown if looked_to is None else f"{shown}; looked as far as {times.clock(looked_to)}"


def overview_title(causes: int, failed: int) -> str:
    """What the service needs; runs that fail by their pipelines' doing are not its concern, but are not unsaid."""
    if causes == 0:
        return "The service is well; runs have failed." if failed else "Everything is well."
    return f"{written(causes)} {'thing needs' if causes == 1 else 'things need'} a person."


def away(state: Mapping[str, Any]) -> str:
    return f"away {times.age(times.since(state['problem_since']))}" if state["problem"] else ""


def overview_text(view: Mapping[str, Any], most: int) -> list[tuple[str, bool]]:
    """The sentences below the title, as pieces of text that are emphasised or not."""
    live = view["live"]["PENDING"] + view["live"]["RUNNING"]
    jobs = sum(state.live for state in view["states"].values())
    ready = sum(state.ready for state in view["states"].values() if state.workers)
    held = sum(cause["count"] for cause in view["causes"])
    pieces: list[tuple[str, bool]] = []
    if held:
        hold = "It holds" if len(view["causes"]) == 1 else "They hold"
        pieces.append((f"{hold} {count(held, 'step run')}. The rest of the service is well: ", False))
    if not live:
        return [*pieces, ("No run is live.", False)]
    pieces += [(f"{capped(live, most)} {'run' if live == 1 else 'runs'}", True), (" live, ", False)]
    pieces += [(count(jobs, "job"), True), (" at the backends", False)]
    paused = sum(view["waiting"].values())
    stops = f", {count(paused, 'step run')} {'waits' if paused == 1 else 'wait'} for what is paused." if paused else "."
    starts = f", {count(ready, 'step run')} could start now" if ready else ", nothing waits for a place"
    return [*pieces, (f"{starts}{stops}", False)]


_IN_SPAN = {"1h": "in the last hour", "24h": "in the last 24 h", "7d": "in the last 7 days"}
_OF_PART = {"1h": "a minute", "24h": "in 15 minutes", "7d": "in 2 hours"}


def in_span(span: str) -> str:
    return _IN_SPAN[span]


def of_part(span: str) -> str:
    """What one column of a chart of this span counts."""
    return _OF_PART[span]


def share(part: int, others: int) -> str:
    """`64 of 7,126, 0.9 %`."""
    every = part + others
    return f"{part:,} of {every:,}, {100 * part / every:.1f} %" if every else ""


def waiting(group: Mapping[str, Any]) -> str:
    """Why step runs wait, as a line of a table. The panel of causes names the step of a breaker."""
    text = "a circuit breaker holds its step back" if group["cause"] is Cause.BREAKER else group["text"]
    return text[:1].upper() + text[1:]


def cause(found: Mapping[str, Any], *, may_act: bool) -> dict[str, Any]:
    """One thing that needs a person: a title, what is known, whose doing it is, and what its reader can do."""
    made = _CAUSES[found["kind"]](found, may_act)
    return {
        "kind": found["kind"],
        "id": found["id"],
        "since": found["since"],
        "example": found.get("example"),
        "backend": found.get("backend"),
        "raw": dict(found),
        "href": "",
        "jobs": [],
        "amount": "",
        **made,
    }


def _breaker(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    probe = "One of them is tried now." if found["probing"] else ""
    if not probe and found["probe_at"]:
        probe = f"One is tried again at {times.clock(found['probe_at'])}."
    release = "release it" if may_act else "an operator releases it"
    return {
        "icon": "HELD",
        "tone": "fail",
        "title": f"{found['pipeline']} / {found['step']} fails for everybody; the rest of it is held back",
        "code": found["text"],
        "text": probe or f"No probe is planned: {release} when the cause is gone.",
        "count": found["step_runs"],
        "unit": f"{'step run' if found['step_runs'] == 1 else 'step runs'} in {count(found['runs'], 'run')}",
        "doing": "pipeline",
        "example": found["failure"] or found["example"],
    }


def _backend(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
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


def _worker(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    number, backend = found["step_runs"], found["backend"]
    return {
        "icon": "unplug",
        "tone": "warn",
        "title": f"No worker serves {backend}",
        "code": f"ccat-wm worker --backend {backend}" if may_act else "",
        "text": "starts one." if may_act else "The operators have to start one.",
        "count": number,
        "unit": f"{'step run waits' if number == 1 else 'step runs wait'} for it",
        "doing": "site",
        "href": "/backends",
    }


def _action(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    return {
        "icon": "hand",
        "tone": "warn",
        "title": f"Held at {found['backend']} until an operator acts there",
        "code": "",
        "text": found["text"],
        "count": found["step_runs"],
        "unit": f"{'job' if found['step_runs'] == 1 else 'jobs'} in {count(found['runs'], 'run')}",
        "doing": "site",
        "jobs": found["jobs"],
    }


def _cancel(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    number = found["step_runs"]
    return {
        "icon": "octagon-x",
        "tone": "warn",
        "title": f"{written(number)} {'cancel is' if number == 1 else 'cancels are'} not confirmed",
        "code": found["text"] or "",
        "text": f"{found['backend']} is asked again{'; stop the jobs there if it cannot' if may_act else ''}.",
        "count": number,
        "unit": f"{'step run' if number == 1 else 'step runs'} at {found['backend']}",
        "doing": "site",
    }


def _stray(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    number = found["jobs_count"]
    them = "it" if number == 1 else "them"
    return {
        "icon": "triangle-alert",
        "tone": "warn",
        "title": f"{count(number, 'job')} of attempts that are over {'goes' if number == 1 else 'go'} on",
        "code": found["text"] or "",
        "text": f"Stop {them} at {found['backend']}." if may_act else f"The operators have to stop {them}.",
        "count": number,
        "unit": f"{'job' if number == 1 else 'jobs'} at {found['backend']}",
        "doing": "workflow manager",
        "href": "/backends",
    }


def _disk(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    number = found["step_runs"]
    remedy = "Make room there, then retry them." if may_act else "They can be retried when there is room again."
    return {
        "icon": "hard-drive",
        "tone": "warn",
        "title": f"A disk is full where {found['backend']} runs its jobs",
        "code": "",
        "text": f"{found['text'] or meaning('disk_full')} {remedy}",
        "count": number,
        "unit": f"{'step run' if number == 1 else 'step runs'} in {count(found['runs'], 'run')}",
        "doing": "site",
        "href": "/runs?reason=disk_full&created=24h",
    }


def _space(found: Mapping[str, Any], may_act: bool) -> dict[str, Any]:
    disk = found["disk"]
    return {
        "icon": "hard-drive",
        "tone": "warn",
        "title": found["text"][0].upper() + found["text"][1:],
        "code": "",
        "text": "Make room there, for example by deleting finished runs."
        if may_act
        else "The operators have to make room.",
        "count": 0,
        "amount": times.size(disk.free),
        "unit": f"of {times.size(disk.total)} free",
        "doing": "site",
    }


_CAUSES = {
    "breaker": _breaker,
    "backend": _backend,
    "worker": _worker,
    "action": _action,
    "cancel": _cancel,
    "stray": _stray,
    "disk": _disk,
    "space": _space,
}
