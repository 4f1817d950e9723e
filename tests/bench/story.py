"""The rows of one invented run, from its creation to its end, as lines for COPY."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import md5
from random import Random
from typing import Any

from ccat_workflow_manager.db.conditions import counter
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.lifecycle.states import Status

_NULL = r"\N"
_TICKS = 10_000
"""Positions of events in a second."""
_S = Status
_DONE = (
    ("claimed", _S.PENDING, _S.STAGING_DATA),
    ("job_submitted", _S.STAGING_DATA, _S.SUBMITTED),
    ("job_started", _S.SUBMITTED, _S.RUNNING),
    ("job_succeeded", _S.RUNNING, _S.COLLECTING_RESULTS),
    ("results_collected", _S.COLLECTING_RESULTS, _S.COMPLETED),
)
_USERS = ("observer", "pipeline-service", "astrid", "jonas", "mei")
_REASONS = (
    ("program_failed", "exit code 1: ValueError: the fit of the baseline did not converge"),
    ("out_of_memory", "used 2.1 GB of 2 GB"),
    ("time_limit", "stopped after 1 h"),
    ("node_failure", "node n017 failed"),
    ("input_missing", "/data/raw/scan-0042 does not exist"),
    ("lost", "the scheduler has not known the job for 15 minutes"),
)
_SHARES = (60, 15, 8, 8, 6, 3)
_RESOURCES = json.dumps(asdict(Resources()))


class Plot(StrEnum):
    """What becomes of a run."""

    COMPLETES = "completes"
    RETRIES = "retries"
    FAILS = "fails"
    IS_CANCELLED = "is cancelled"
    RUNS = "runs"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an invented pipeline: how many keys it has, and how many seconds each takes, roughly."""

    name: str
    keys: int
    seconds: float


@dataclass(slots=True)
class Pipeline:
    """An invented pipeline, registered as `spec_id`. Its steps follow each other."""

    name: str
    project: str
    backend: str
    steps: Sequence[Step]
    spec_id: str = ""
    lane: int = 0

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "project": self.project,
            "description": f"An invented pipeline with {len(self.steps)} steps",
            "parameters": {"type": "object", "properties": {"source": {"type": "string"}}},
            "steps": [
                {
                    "name": step.name,
                    "command": [step.name],
                    "depends_on": [each.name for each in self.steps[max(0, at - 1) : at]],
                    **({"foreach": [f"scan-{key:03}" for key in range(step.keys)]} if step.keys > 1 else {}),
                }
                for at, step in enumerate(self.steps)
            ],
        }


@dataclass(slots=True)
class Rows:
    """Lines for COPY by table. Events and the audit go to the partitions of their months."""

    by_table: dict[str, list[str]] = field(default_factory=dict)

    def add(self, table: str, *values: object) -> None:
        self.by_table.setdefault(table, []).append("\t".join([_NULL if each is None else str(each) for each in values]))


COLUMNS = {
    "runs": "id spec_id pipeline pipeline_version project parameters labels priority created_by created_at started_at "
    "finished_at status_reason idempotency_key request_hash " + " ".join(counter(status) for status in Status),
    "run_steps": "run_id position name total remaining downstream_key downstream_all upstream",
    "step_runs": "id run_id position step key backend lane priority status attempt max_attempts claims unmet "
    "has_dependents waiting_for reason reason_text resources token job_id exit_code wall_time_seconds cpu_hours "
    "peak_memory_gb created_at submitted_at started_at finished_at breaker_key",
    "attempts": "step_run_id number backend job_name job_id job_state worker node resources claimed_at submitted_at "
    "started_at finished_at exit_code wall_time_seconds cpu_hours peak_memory_gb reason reason_text",
    "events": "id position step_run_id run_id project at event from_status to_status attempt actor reason text",
    "products": "id step_run_id attempt run_id name type path size sha256 is_directory file_count metadata created_at",
    "product_parents": "product_id parent_id",
    "audit": "id at actor identity address action object project after request_id",
}
"""The columns of the lines of each table."""


def columns_of(table: str) -> str:
    """The columns of the lines of a table, or of a partition `TABLE_YYYY_MM`."""
    return COLUMNS[next(name for name in (table, table[:-8]) if name in COLUMNS)].replace(" ", ", ")


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


@dataclass(slots=True)
class Numbers:
    """The identity columns."""

    events: int = 0
    audits: int = 0


@dataclass(slots=True)
class _StepRun:
    """A step run while its story is told."""

    id: str
    step: Step
    at: int
    key: str
    status: Status = _S.PENDING
    attempt: int = 0
    reason: str | None = None
    text: str | None = None
    wait: str | None = None
    submitted: float | None = None
    started: float | None = None
    finished: float | None = None


@dataclass(slots=True)
class Story:
    """One run. `tell` adds all of its rows."""

    rows: Rows
    numbers: Numbers
    random: Random
    pipeline: Pipeline
    created: float
    now: float
    begin: float
    plot: Plot
    run_id: str = ""
    step_runs: list[_StepRun] = field(default_factory=list)
    clock: float = 0.0

    def tell(self) -> None:
        milliseconds, tail = int(self.created * 1000), self.random.getrandbits(60)
        self.run_id = f"{milliseconds:012x}7000{0x8 << 60 | tail:016x}"
        self.step_runs = [
            _StepRun("", step, at, f"scan-{key:03}" if step.keys > 1 else "main")
            for at, step in enumerate(self.pipeline.steps)
            for key in range(step.keys)
        ]
        for number, each in enumerate(self.step_runs, 1):
            each.id = f"{milliseconds:012x}7{number:03x}{0x8 << 60 | self.random.getrandbits(60):016x}"
            self._event(each, "created", None, _S.PENDING, self.created)
        self.clock = self.created
        turning = self.random.randrange(len(self.step_runs))
        for number, each in enumerate(self.step_runs):
            if not self._advance(each, number, turning):
                break
        self._write()

    def _advance(self, each: _StepRun, number: int, turning: int) -> bool:
        """Tell what becomes of a step run. Returns False when nothing after it has happened."""
        if self.plot is Plot.WAITS:
            return False
        if number < turning or self.plot in (Plot.COMPLETES, Plot.RETRIES):
            if number == turning and self.plot is Plot.RETRIES:
                self._fail(each)
                each.reason = each.text = each.finished = None
                self._event(each, "retried", _S.FAILED, _S.PENDING, self.clock)
            self._run(each, len(_DONE))
        elif self.plot is Plot.RUNS:
            self._run(each, 3)
            return False
        elif number == turning and self.plot is Plot.FAILS:
            self._fail(each)
        else:
            self._end_early(each, turning)
        return True

    def _run(self, each: _StepRun, moves: int) -> None:
        """The first moves of an attempt. All of them: it completes."""
        each.attempt += 1
        seconds = min(each.step.seconds * self.random.lognormvariate(0, 0.5), max(0.0, self.now - self.clock - 3))
        waits = min(self.random.expovariate(1 / 20), max(0.0, (self.now - self.clock - seconds) / 2))
        times = [self.clock + at for at in (0.1, 0.3, 0.3 + waits, 0.3 + waits + seconds, 0.5 + waits + seconds)]
        for (event, before, after), at in list(zip(_DONE, times, strict=True))[:moves]:
            self._event(each, event, before, after, at)
        each.submitted, each.started = times[1], times[2]
        each.wait = "the job runs" if moves < len(_DONE) else None
        if moves == len(_DONE):
            each.finished = self.clock = times[4]
        self._attempt(each, times[0], times[3] if moves == len(_DONE) else None)

    def _fail(self, each: _StepRun) -> None:
        self._run(each, 3)
        self.rows.by_table["attempts"].pop()
        each.reason, each.text = self.random.choices(_REASONS, _SHARES)[0]
        each.wait, each.finished = None, min((each.started or self.clock) + each.step.seconds, self.now)
        self.clock = each.finished
        self._attempt(each, each.submitted or 0.0, each.finished)
        self._event(each, "failed", _S.RUNNING, _S.FAILED, self.clock)

    def _end_early(self, each: _StepRun, turning: int) -> None:
        failed = self.step_runs[turning]
        if self.plot is Plot.IS_CANCELLED:
            each.reason, each.text = "cancelled", "cancelled by astrid"
            self._event(each, "cancelled", _S.PENDING, _S.CANCELLED, self.clock)
        elif each.at > failed.at:
            each.reason = "upstream_failed"
            each.text = f"blocked by {failed.step.name}/{failed.key} (FAILED: {failed.reason})"
            self._event(each, "skipped", _S.PENDING, _S.SKIPPED, self.clock)
        else:
            self._run(each, len(_DONE))
            return
        each.finished = self.clock

    def _event(self, each: _StepRun, event: str, before: Status | None, after: Status, at: float) -> None:
        each.status = after
        actor = "service" if event in ("created", "cancelled", "skipped") else "worker-3"
        self._add_event(each.id, at, event, before, after, each.attempt, actor, each.reason, each.text)

    def _add_event(self, step_run_id: str | None, at: float, *values: object) -> None:
        self.numbers.events += 1
        when = _iso(at) or ""
        position = int((at - self.begin) * _TICKS) + 1
        self.rows.add(
            f"events_{when[:4]}_{when[5:7]}", self.numbers.events, position, step_run_id, self.run_id,
            self.pipeline.project, when, *values,
        )  # fmt: skip

    def _attempt(self, each: _StepRun, claimed: float, ended: float | None) -> None:
        seconds = None if ended is None or each.started is None else round(ended - each.started, 3)
        is_failed = each.reason is not None
        self.rows.add(
            "attempts", each.id, each.attempt, self.pipeline.backend, f"ccat-{each.id}-{each.attempt}",
            f"{each.id[12:]}-{each.attempt}", "failed" if is_failed else "completed" if ended else "running",
            "worker-3", f"n{int(claimed) % 64:03}", _RESOURCES, _iso(claimed), _iso(each.submitted),
            _iso(each.started), _iso(ended), None if ended is None else int(is_failed), seconds,
            None if seconds is None else round(seconds / 3600, 5), None if seconds is None else 1.25,
            each.reason, each.text,
        )  # fmt: skip

    # --- the rows of the whole ---------------------------------------------------------------------------------------

    def _write(self) -> None:
        ended = self.clock if all(each.finished is not None for each in self.step_runs) else None
        failed = next((each for each in self.step_runs if each.status is _S.FAILED), None)
        why = None if failed is None else f"{failed.step.name}/{failed.key}: {failed.reason}: {failed.text}"
        if ended is not None:
            status = _S.FAILED if failed else _S.CANCELLED if self.plot is Plot.IS_CANCELLED else _S.COMPLETED
            self._add_event(None, ended, "run_finished", None, status, 0, "service", None, why)
        self._write_run(ended, why)
        steps = self.pipeline.steps
        done = [
            sum(each.status is _S.COMPLETED and each.at == at for each in self.step_runs) for at in range(len(steps))
        ]
        for at, step in enumerate(steps):
            is_last = at + 1 == len(steps)
            self.rows.add(
                "run_steps", self.run_id, at, step.name, step.keys, step.keys - done[at], "{}",
                "{}" if is_last else f"{{{at + 1}}}", f"{{{at - 1}}}" if at else "{}",
            )  # fmt: skip
        for each in self.step_runs:
            self._write_step_run(each, int(each.at > 0 and done[each.at - 1] < steps[each.at - 1].keys))
        self._write_products()

    def _write_run(self, ended: float | None, why: str | None) -> None:
        created, key = _iso(self.created) or "", md5(self.run_id.encode()).hexdigest()
        has_key, user = key < "5", _USERS[int(key[-2:], 16) % len(_USERS)]
        labels = {"source": f"source-{int(key[:3], 16) % 200}", "night": created[:10]}
        if key.startswith("abc"):
            labels["campaign"] = "rare"
        started = min((each.started for each in self.step_runs if each.started is not None), default=None)
        statuses = [each.status for each in self.step_runs]
        parameters = json.dumps({"source": labels["source"]})
        self.rows.add(
            "runs", self.run_id, self.pipeline.spec_id, self.pipeline.name, 1, self.pipeline.project, parameters,
            json.dumps(labels), 0, user, created, _iso(started), _iso(ended), why, key if has_key else None,
            key if has_key else None, *(statuses.count(status) for status in Status),
        )  # fmt: skip
        self.numbers.audits += 1
        self.rows.add(
            f"audit_{created[:4]}_{created[5:7]}", self.numbers.audits, created, user, f"tokens/{user}", "10.0.0.7",
            "create_run", f"runs/{self.run_id}", self.pipeline.project, '{"priority": 0}', key,
        )  # fmt: skip

    def _write_step_run(self, each: _StepRun, unmet: int) -> None:
        seconds = None
        if each.finished is not None and each.started is not None:
            seconds = round(each.finished - each.started, 3)
        self.rows.add(
            "step_runs", each.id, self.run_id, each.at, each.step.name, each.key, self.pipeline.backend,
            self.pipeline.lane, 0, each.status, each.attempt, 2, int(each.attempt > 0), unmet,
            each.at + 1 < len(self.pipeline.steps), each.wait, each.reason, each.text, _RESOURCES, each.attempt,
            f"{each.id[12:]}-{each.attempt}" if each.attempt else None, None if seconds is None else 0, seconds,
            None if seconds is None else round(seconds / 3600, 5), None if seconds is None else 1.25,
            _iso(self.created), _iso(each.submitted), _iso(each.started), _iso(each.finished),
            md5(f"{self.pipeline.name}/{each.step.name}".encode()).hexdigest(),
        )  # fmt: skip

    def _write_products(self) -> None:
        """One for each completed step run without keys; it comes from the one before."""
        before: str | None = None
        for each in self.step_runs:
            if each.status is not _S.COMPLETED or each.step.keys > 1:
                continue
            product = f"{each.id[:13]}f{each.id[14:]}"
            self.rows.add(
                "products", product, each.id, each.attempt, self.run_id, "map.fits", "SCIENCE", "science/map.fits",
                1_048_576, md5(each.id.encode()).hexdigest() * 2, False, 1, "{}", _iso(each.finished),
            )  # fmt: skip
            if before is not None:
                self.rows.add("product_parents", product, before)
            before = product
