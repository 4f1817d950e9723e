"""Sentences about actions: what they will do, and what they have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.dashboard.words.plain import STATUS_WORDS, count
from ccat_workflow_manager.dashboard.words.runs import groups

DONE = {
    "cancel": "Cancel requested",
    "retry": "Tried again",
    "pause": "Paused",
    "resume": "Resumed",
    "priority": "Priority set",
    "label": "Labels set",
}
RELEASED = "What it held back starts now. It opens again if the next ones fail in the same way."
NEXT_ATTEMPT = {"memory_gb": "Memory in GB", "cpu": "CPUs", "time_hours": "Time in hours"}
NEEDS_ROLE = {
    "submit": "Your role is viewer. Changes need the role submitter: ask an administrator for a token with it.",
    "operate": "This needs the role operator: ask an administrator for a token with it.",
}
_VERBS = {
    "cancel": (
        "Cancel",
        "Running jobs are stopped; what they have done so far is lost. Products that are published stay.",
    ),
    "retry": ("Retry", "What did not complete is tried again. What has completed stays and is not repeated."),
    "pause": ("Pause", "Jobs that are at a backend go on; nothing new is started until the runs are resumed."),
    "resume": ("Resume", "What is ready starts again."),
    "priority": (
        "Set the priority of",
        "Step runs with a higher priority start first. Jobs at a backend keep their place.",
    ),
    "label": ("Label", "Labels are what runs are found by. A name that a run has already gets the new value."),
}


def preview(verb: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an action on these runs will do."""
    word, text = _VERBS[verb]
    able = [run for run in runs if run["eligible"]]
    what = f"{word} {count(len(able), 'run')}"
    sums: dict[str, int] = {}
    for run in able:
        for status in STATUS_WORDS:
            if status.lower() in run:
                sums[status] = sums.get(status, 0) + run[status.lower()]
    found = groups(sums)
    changed = {
        "cancel": found["run"] + found["queue"] + found["wait"],
        "retry": found["fail"] + found["stop"],
        "pause": found["wait"],
        "resume": found["wait"],
        "priority": found["wait"],
        "label": 0,
    }[verb]
    changes = {"cancel": "step runs are cancelled", "retry": "step runs open again"}.get(verb, "step runs wait")
    detail = f"{found['run']:,} running, {found['queue']:,} queued" if verb != "retry" else f"{found['fail']:,} failed"
    return {
        "title": f"{what}?" if able else f"Nothing to {verb}",
        "button": what,
        "text": text,
        "changed": changed,
        "changes": changes,
        "detail": detail,
        "stays": found["done"],
        "groups": found,
        "left_out": _left_out(verb, [run for run in runs if not run["eligible"]]),
        "danger": verb == "cancel",
    }


def _left_out(verb: str, runs: Sequence[Mapping[str, Any]]) -> str:
    if not runs:
        return ""
    why = {
        "cancel": "they are finished, or are being cancelled already",
        "retry": "there is nothing in them to retry",
        "pause": "they are finished or paused already",
        "resume": "they are not paused",
        "priority": "they are finished",
        "label": "they are gone",
    }[verb]
    return f"{count(len(runs), 'run')} {'is' if len(runs) == 1 else 'are'} left out: {why}."


def report(verb: str, done: int, wanted: int) -> tuple[str, list[str]]:
    """What an action has done."""
    past = {
        "cancel": "being cancelled",
        "retry": "tried again",
        "pause": "paused",
        "resume": "resumed",
        "priority": "changed",
        "label": "labelled",
    }
    title = f"{count(done, 'run')} {'is' if done == 1 else 'are'} {past[verb]}"
    lines = []
    if verb == "cancel" and done:
        lines.append(
            "A step run counts as cancelled once its job is known to be gone; the list shows which still stop."
        )
    if done < wanted:
        were = "was" if wanted - done == 1 else "were"
        why = "would have too many labels" if verb == "label" else "had changed meanwhile"
        lines.append(f"{count(wanted - done, 'run')} {why}, and {were} left as found.")
    return title, lines
