"""Compares live step runs with the records of the scheduler: one listing per backend, and one call for what it lacks.

A worker of the backend makes the calls, because it sees the scheduler; without one this host does, if it can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ccat_workflow_manager.db.orphans import AttemptKey, OrphanStore
from ccat_workflow_manager.db.queries.verify import Finding, LiveAttempt, live_attempts, used_backends
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.workers import WorkerStore
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError, ServiceUnavailable
from ccat_workflow_manager.hpc.base import HPCJobInfo
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from ccat_workflow_manager.services.backend_handle import BackendHandle

QUESTION = "verify jobs"
_ANSWER_SECONDS = 10
_MOST_FINDINGS = 1000


@dataclass(frozen=True, slots=True)
class JobCheck:
    """Looks at the jobs of one backend. `settle_seconds`: what is younger may be on its way to the database."""

    database: Database
    settle_seconds: float

    def findings(self, backend: BackendHandle) -> list[Finding]:
        """What the jobs of the backend contradict, at most 1000. Raises BackendError if it does not answer."""
        before = self._live(backend.name)
        found: list[Finding] = []
        listed: Mapping[AttemptKey, Sequence[str]] = {}
        if backend.capabilities.lists:
            listed = _by_attempt(backend)
            with self.database.read() as unit:
                over = OrphanStore(unit).seconds_over(backend.name, listed)
            found += self._doubles(backend.name, listed, before, over)
            found += self._strays(backend.name, listed, over)
        gone = {key: live for key, live in before.items() if key not in listed and live.job_id is not None}
        found += self._gone(backend, gone)
        return found[:_MOST_FINDINGS]

    def _live(self, backend: str) -> dict[AttemptKey, LiveAttempt]:
        with self.database.read() as unit:
            return {(each.step_run_id, each.attempt): each for each in live_attempts(unit, backend)}

    def _doubles(
        self,
        backend: str,
        listed: Mapping[AttemptKey, Sequence[str]],
        live: Mapping[AttemptKey, LiveAttempt],
        known: Mapping[AttemptKey, float | None],
    ) -> Iterator[Finding]:
        """Each attempt of this database has one job, the recorded one."""
        for key, job_ids in listed.items():
            recorded = live[key].job_id if key in live else None
            if key not in known or (len(job_ids) == 1 and recorded in (None, job_ids[0])):
                continue
            text = f"attempt {key[1]} has the live jobs {', '.join(job_ids)} at {backend}; recorded is {recorded}"
            others = ", ".join(job_id for job_id in job_ids if job_id != recorded)
            yield Finding("job", f"step-runs/{key[0]}", text, f"cancel at {backend}: {others}")

    def _strays(
        self, backend: str, listed: Mapping[AttemptKey, Sequence[str]], over: Mapping[AttemptKey, float | None]
    ) -> Iterator[Finding]:
        """No job lives without a live attempt."""
        for key, seconds in over.items():
            if seconds is not None and seconds >= self.settle_seconds:
                jobs = ", ".join(listed[key])
                text = f"attempt {key[1]} is over for {seconds:.0f} s; its job {jobs} lives at {backend}"
                repair = f"managers stop such jobs (REAPER_SECONDS); by hand, cancel at {backend}: {jobs}"
                yield Finding("job", f"step-runs/{key[0]}", text, repair)

    def _gone(self, backend: BackendHandle, gone: Mapping[AttemptKey, LiveAttempt]) -> Iterator[Finding]:
        """The job of each live attempt lives, or has ended a moment ago."""
        if not gone:
            return
        job_ids = sorted({str(live.job_id) for live in gone.values()})
        answers = backend.get_statuses(job_ids, point="backend.status")
        still = self._live(backend.name)
        for key, live in gone.items():
            # What the service has recorded meanwhile is no contradiction.
            if still.get(key) == live and (text := self._contradiction(answers[str(live.job_id)], live)) is not None:
                repair = "a worker of the backend records it with its next poll; is one running, and does it answer?"
                about = f"is {live.status}; its job {live.job_id} {text} at {backend.name}"
                yield Finding("job", f"step-runs/{key[0]}", about, repair)

    def _contradiction(self, answer: HPCJobInfo | BackendError, live: LiveAttempt) -> str | None:
        if isinstance(answer, BackendError):
            return f"cannot be judged ({answer.message})"
        if answer.status is JobStatus.UNKNOWN:
            return "is not known" if live.seconds >= self.settle_seconds else None
        if not answer.finished:
            return None
        ended = datetime.now(UTC) if answer.finished_at is None else answer.finished_at
        seconds = (datetime.now(UTC) - ended) / timedelta(seconds=1)
        return f"is {answer.status}" if seconds >= self.settle_seconds else None


def _by_attempt(backend: BackendHandle) -> dict[AttemptKey, list[str]]:
    """The live jobs with names of ours, by the attempt that they are for."""
    found: dict[AttemptKey, list[str]] = defaultdict(list)
    for job, key in backend.list_jobs():
        if key is not None:
            found[key].append(job.job_id)
    return found


@dataclass(slots=True)
class JobVerification:
    """Has the jobs of all backends looked at."""

    database: Database
    doorbell: Doorbell
    here: Callable[[str], BackendHandle | None]
    """A backend that this process can call. None: this host does not see its scheduler."""
    settle_seconds: float
    unchecked: dict[str, str] = field(default_factory=dict)
    """Backends whose jobs could not be looked at, and why."""

    def findings(self) -> Iterator[Finding]:
        with self.database.read() as unit:
            served = set(WorkerStore(unit).served_backends())
            names = sorted(served | set(used_backends(unit)))
        for name in names:
            try:
                yield from self._ask(name) if name in served else self._look(name)
            except (BackendError, ServiceUnavailable) as error:
                self.unchecked[name] = error.message

    def _ask(self, name: str) -> Iterator[Finding]:
        question = {QUESTION: name, "settle_seconds": self.settle_seconds}
        answer = self.doorbell.ask(name, question, _ANSWER_SECONDS)
        if "problem" in answer:
            self.unchecked[name] = answer["problem"]
        yield from (Finding(**each) for each in answer["findings"])

    def _look(self, name: str) -> Iterator[Finding]:
        backend = self.here(name)
        if backend is None:
            self.unchecked[name] = "no worker serves it, and this host does not see its scheduler"
        else:
            yield from JobCheck(self.database, self.settle_seconds).findings(backend)


def answer(question: Mapping[str, Any], database: Database, backend: Callable[[str], BackendHandle]) -> dict[str, Any]:
    """What a worker answers to the question of `JobVerification`."""
    try:
        check = JobCheck(database, question["settle_seconds"])
        return {"findings": [asdict(each) for each in check.findings(backend(question[QUESTION]))]}
    except BackendError as error:
        return {"findings": [], "problem": error.message}
