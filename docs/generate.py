"""Write the pages of docs/ that are derived from the code, or with --check only say whether they are current."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from ccat_workflow_manager.failures import COMMON, FAILURES, RETRYABLE_BY_DEFAULT, Blame, Retry
from ccat_workflow_manager.lifecycle.retry import NEVER_RETRIED
from ccat_workflow_manager.lifecycle.states import (
    ACTIVE,
    CANCELLABLE,
    FINISHED,
    INITIAL,
    LEASED,
    LIVE,
    RETRYABLE,
    TRANSITIONS,
    Event,
    Status,
)
from ccat_workflow_manager.settings import PREFIX, Settings
from ccat_workflow_manager.settings.backends import declared, prefix_of
from ccat_workflow_manager.settings.loader import ENVIRONMENTS, from_files
from ccat_workflow_manager.settings.model import specs_of

_SETTINGS_PAGE = """# Settings

<!-- Written by `make docs` from the declarations in settings/service.py and hpc/*/settings.py; do not edit. -->

A setting `X` is given, the later winning, in

1. the shipped defaults: `settings.toml`, and for a backend its declaration;
2. the site's own file of the same shape, named by the environment variable `{prefix}SETTINGS_FILE`;
3. the environment variable `{prefix}X`. A setting that holds a secret ({secrets}) may be given as a file
   instead: `{prefix}X_FILE` is its path.

`ENV_FOR_DYNACONF` chooses between `localdev` (which it is when unset), `staging` and `production`; the files have a
section for each, and `[default]` for all. Where defaults differ, the table names those of the three in this order.

Every process validates all settings when it starts and refuses to run with any fault, naming all faults at once.

A name that is none of those below is a fault too, unless it is a setting of a backend that a plug-in brought. Such a
name begins with the name of the backend; the rest, in lower case, is an argument of that backend. Passwords are never
shown.
{tables}"""

_HEADINGS = {
    "HPC_BACKEND": "Where work runs",
    "DATA_DIR": "Directories",
    "DATABASE_URL": "Databases",
    "API_HOST": "API and log",
    "WORKERS": "Pace and patience",
    "BREAKER_FAILURES": "Circuit breakers",
    "KILL_GRACE_SECONDS": "Jobs",
    "AWS_BATCH_JOB_QUEUE": "Backends",
}
"""Above which settings a new table begins."""

_STATUSES = {
    Status.PENDING: "Waits: for steps before it, for a back-off to end, for a worker, or because its run is paused. "
    "`waiting_for` says for which of these.",
    Status.STAGING_DATA: "A worker holds it: it makes directories, finds the image, and hands the job to the backend.",
    Status.SUBMITTED: "The backend has a job for it, which does not run yet.",
    Status.RUNNING: "The backend reports that the job runs. `waiting_for` says if it does not go on: its node does not "
    "answer, its exit record is not visible yet.",
    Status.COLLECTING_RESULTS: "The program has ended well. A worker checks the exit record and the output directory.",
    Status.COMPLETED: "The products are published and registered.",
    Status.FAILED: "It did not complete, for one of the reasons below.",
    Status.CANCELLED: "A cancel was requested, and the job is over.",
    Status.SKIPPED: "It was never started, because a step before it did not complete.",
}

_EVENTS = {
    Event.CREATED: ("a run was asked for", "who asked"),
    Event.CLAIMED: ("a worker took it", "the worker; lease and token on the row"),
    Event.RELEASED: ("the worker gave it back, or stopped answering", "why, and when it may be claimed again"),
    Event.SKIPPED: ("a step before it cannot complete any more", "reason, and which step run is the cause"),
    Event.JOB_SUBMITTED: ("the backend took the job, or it was found there by its name", "the job id"),
    Event.JOB_STARTED: ("the backend reports that the job runs", "start time, node"),
    Event.JOB_SUCCEEDED: (
        "the backend reports the end of the job with exit code 0",
        "exit code, times, resources used",
    ),
    Event.RESULTS_COLLECTED: ("the output was read and published", "products, warnings"),
    Event.FAILED: ("this attempt did not complete", "reason and text; what is known of the job"),
    Event.CANCELLED: ("the stop is a fact", "who asked, or the backend that confirmed it"),
    Event.REUSED: ("the products of an equal step run were taken over", "which step run, of which run"),
    Event.SET_COMPLETED: ("a person has done the work in another way", "who, and why"),
    Event.SET_SKIPPED: ("a person says that the work is not needed; what depends on it goes on", "who, and why"),
    Event.RETRIED: ("another attempt was granted, by the policy or by a person", "who, the delay, new resources"),
}

_SETS = (
    ("FINISHED", FINISHED, "Nothing more happens unless a retry is requested."),
    ("ACTIVE", ACTIVE, "Between the claim and the end."),
    ("LEASED", LEASED, "A worker may hold a lease on it."),
    ("LIVE", LIVE, "A job exists at the backend and is being followed."),
    ("CANCELLABLE", CANCELLABLE, "A cancel request is noted."),
    ("RETRYABLE", RETRYABLE, "A retry opens it again."),
)

_BLAMES = {
    Blame.USER: "the pipeline or its program",
    Blame.SITE: "the site: its nodes, disks, scheduler, registry",
    Blame.US: "the workflow manager itself",
}

_RETRIES = {
    Retry.NO: "not by default",
    Retry.LATER: "the same, after the back-off",
    Retry.MORE_MEMORY: "with more memory",
    Retry.MORE_TIME: "with more time",
}

_STATES_PAGE = """# States and failures

<!-- Written by `make docs` from lifecycle/states.py and failures.py; do not edit. -->

Only a step run has states. The status of a run follows from those of its step runs, and an attempt only records
what happened. All legal moves are in one table, `TRANSITIONS` in `lifecycle/states.py`; a move that is not there does
not exist, and the constraints of the database say the same.

```mermaid
{diagram}
```

Not drawn, to keep it readable: `cancelled` leads to CANCELLED from
{cancellable};
`retried` leads back to {initial} from {retryable};
`set_completed` and `set_skipped` lead to COMPLETED and SKIPPED from {initial}, {retryable}.

## Statuses

{statuses}

## Moves

{moves}

## Events

{events}

Every event is a row in the table `events`, written in the same transaction as the status: when, from, to, which
attempt, by whom, why. `GET /api/v1/step-runs/ID/events` lists them.

## Sets of statuses

Derived from the table of moves, never typed twice.

{sets}

## The status of a run

| when | the run is |
|---|---|
| all its step runs are PENDING | PENDING |
| some step run is not finished | RUNNING |
| all are finished, and every loss is [tolerated](pipelines.md#losses) | COMPLETED, with caveats |
| all are finished, one is FAILED | FAILED |
| all are finished, none FAILED, one CANCELLED | CANCELLED |
| otherwise | COMPLETED |

PostgreSQL computes it in a generated column from the counters of the run, which change in the same transaction as the
step runs ([decision 0007](decisions/0007-run-status-is-a-generated-column.md)).

## Why a step run failed

{failures}

The name in the first column is what the API calls `reason`, and what may stand in `retry.on` of a
[pipeline](pipelines.md#retry). "Retried" says what happens when a step does not say `retry.on`. Reasons that are not
retried by default may be named in `retry.on` all the same; then the attempt is simply repeated. Never retried by a
policy: {never}.

Whose doing it is tells whom to ask: {blames}.

What counts for the [circuit breaker](concepts.md#when-a-step-fails-for-everybody) lies in the step, its image or what
it asks for. A failure that is followed by an attempt with more memory or time does not count.
"""


def settings_markdown() -> str:
    """docs/settings.md."""
    backends = {prefix_of(backend): model for backend, model in sorted(declared().items()) if model is not None}
    ours = {each: model for each, model in backends.items() if model.__module__.startswith("ccat_workflow_manager.")}
    shipped = [from_files(environment, []) for environment in ENVIRONMENTS]
    lines = []
    for spec in (spec for prefix, model in {"": Settings, **ours}.items() for spec in specs_of(model, prefix)):
        if spec.name in _HEADINGS:
            lines += [
                f"\n## {_HEADINGS[spec.name]}\n",
                "| setting | default | allowed | meaning |",
                "|---|---|---|---|",
            ]
        defaults = [_toml_text(values.get(spec.name, spec.field.default)) for values in shipped]
        shown = [f"`{value}`" if value else "empty" for value in (defaults if len(set(defaults)) > 1 else defaults[:1])]
        lines.append(f"| `{spec.name}` | {' / '.join(shown)} | {spec.allowed} | {spec.field.description} |")
    secrets = ", ".join(f"`{spec.name}`" for spec in specs_of(Settings) if spec.is_secret)
    return _SETTINGS_PAGE.format(prefix=PREFIX, secrets=secrets, tables="\n".join(lines) + "\n")


def _toml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def states_markdown() -> str:
    """docs/states.md."""
    return _STATES_PAGE.format(
        diagram=_diagram(),
        initial=INITIAL,
        cancellable=_names(CANCELLABLE),
        retryable=_names(RETRYABLE),
        statuses=_table(("status", "meaning"), ((status, _STATUSES[status]) for status in Status)),
        moves=_table(
            ("from", "event", "to"),
            [
                ("", f"`{Event.CREATED}`", INITIAL),
                *((before, f"`{event}`", to) for (before, event), to in TRANSITIONS.items()),
            ],
        ),
        events=_table(
            ("event", "what has happened", "what it carries"), ((f"`{event}`", *_EVENTS[event]) for event in Event)
        ),
        sets=_table(("set", "statuses", "meaning"), ((name, _names(each), text) for name, each, text in _SETS)),
        failures=_table(
            ("reason", "whose doing", "retried", "breaker", "what an operator reads"),
            (
                (f"`{reason}`", info.blame, _retried(reason), "counts" if reason in COMMON else "", info.text)
                for reason, info in FAILURES.items()
            ),
        ),
        never=", ".join(f"`{reason}`" for reason in FAILURES if reason in NEVER_RETRIED),
        blames="; ".join(f"*{blame}* is {meaning}" for blame, meaning in _BLAMES.items()),
    )


def _diagram() -> str:
    left_out = (Event.CANCELLED, Event.RETRIED, Event.SET_COMPLETED, Event.SET_SKIPPED)
    drawn = [f"    {before} --> {to}: {event}" for (before, event), to in TRANSITIONS.items() if event not in left_out]
    ends = [f"    {status} --> [*]" for status in Status if status in FINISHED and status is not Status.CANCELLED]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {INITIAL}: {Event.CREATED}", *drawn, *ends])


def _retried(reason: object) -> str:
    found = next(info for name, info in FAILURES.items() if name == reason)
    if reason in NEVER_RETRIED:
        return "never"
    assert (reason in RETRYABLE_BY_DEFAULT) == (found.retry is not Retry.NO)
    return _RETRIES[found.retry]


def _names(statuses: Iterable[Status]) -> str:
    return ", ".join(status for status in Status if status in set(statuses))


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(columns)]
    lines += [["---"] * len(lines[0]), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_markdown,
    "states.md": states_markdown,
}


def main() -> int:
    outdated = 0
    for name, text in PAGES.items():
        page = Path(__file__).with_name(name)
        if page.exists() and page.read_text(encoding="utf-8") == text():
            continue
        if "--check" in sys.argv[1:]:
            print(f"{page} is not current: run `make docs`", file=sys.stderr)  # noqa: T201 - a program of its own
            outdated += 1
        else:
            page.write_text(text(), encoding="utf-8")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
