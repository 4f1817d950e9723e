"""Cancelling: the wish is noted at once, CANCELLED is written when the backend says that the job is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from ccat_workflow_manager.core import faults
from ccat_workflow_manager.core.errors import BackendError
from ccat_workflow_manager.core.jobs import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.core.judge import cancelled, facts_of
from ccat_workflow_manager.core.models import Move, WorkItem
from ccat_workflow_manager.core.states import LIVE, Status
from ccat_workflow_manager.db.reading import cancel_items
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.workshop import Workshop

log = logging.getLogger(__name__)

_AT_ONCE = 500
_LOOK_SECONDS = (0.02, 0.5)


class Canceller:
    """Stops jobs that somebody wants stopped, and says so when they have."""

    def __init__(self, workshop: Workshop, pause: Callable[[float], None] = time.sleep) -> None:
        self._workshop = workshop
        self._pause = pause

    def cancel_wanted(self, backend_name: str) -> int:
        """Carry out the cancel requests for this backend that are in nobody's hands: how many were confirmed."""
        with self._workshop.database.read() as unit:
            items = cancel_items(unit, backend_name, _AT_ONCE)
        if not items:
            return 0
        backend = self._workshop.usable(backend_name)
        if backend is None:
            return 0
        try:
            jobs = self._stop(backend, items)
            infos = self._confirm(backend, sorted(set(jobs.values())))
        except BackendError as error:
            words = f"{backend_name} could not be asked to stop the job; not confirmed yet: {error.message}"
            waits = [(i.step_run_id, i.token, words, i.unknown_seconds is not None) for i in items if i.claims > 0]
            self._workshop.note_problem(backend_name, error, waits)
            return 0
        confirmed = [
            (item, infos.get(jobs.get(item.step_run_id, ""), UNKNOWN))
            for item in items
            if self._is_over(item, jobs, infos)
        ]
        with self._workshop.database.begin("commit.cancelled") as unit:
            store = RunStore(unit)
            done = store.apply(
                [
                    Move(item.step_run_id, [cancelled(backend_name)], item.token, facts_of(info))
                    for item, info in confirmed
                ]
            )
            over = {item.step_run_id for item, _ in confirmed}
            words = f"asked {backend_name} to stop the job; not confirmed yet"
            # A job of which nothing is known goes on counting the time of the grace: else it would never end.
            store.note_waits(
                [
                    (i.step_run_id, i.token, words, infos[jobs[i.step_run_id]].status is JobStatus.UNKNOWN)
                    for i in items
                    if i.step_run_id in jobs.keys() - over
                ]
            )
        forget(backend, [jobs[each] for each in done.applied if each in jobs])
        return len(done.applied)

    def _stop(self, backend: HPCBackend, items: Sequence[WorkItem]) -> dict[object, str]:
        """Ask the backend to stop every job there is for these: job ids by step run."""
        jobs: dict[object, str] = {}
        for item in items:
            job_id = item.job_id
            if job_id is None and item.claims > 0:
                job_id = faults.doing("backend.find-to-cancel", partial(backend.find, item.job_name))
            if job_id is not None:
                jobs[item.step_run_id] = job_id
        faults.doing("backend.cancel", lambda: backend.cancel_many(sorted(set(jobs.values()))))
        return jobs

    def _confirm(self, backend: HPCBackend, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        """Look until all of them are over or the time for that has passed."""
        deadline = time.monotonic() + self._workshop.cancel_confirm_seconds
        pause, longest = _LOOK_SECONDS
        infos: dict[str, HPCJobInfo] = {}
        open_ = list(job_ids)
        while open_:
            infos |= faults.doing("backend.confirm", partial(backend.get_statuses, open_))
            open_ = [job_id for job_id in open_ if not infos[job_id].finished]
            if not open_ or time.monotonic() >= deadline:
                break
            self._pause(pause)
            pause = min(pause * 2, longest)
        return infos

    def _is_over(self, item: WorkItem, jobs: dict[object, str], infos: dict[str, HPCJobInfo]) -> bool:
        """Whether CANCELLED is a fact. A job that completed first is left to the follower: it finished.

        What was given back is followed by nobody, so it is here that the grace ends for a job that stays unknown.
        """
        job_id = jobs.get(item.step_run_id)
        if job_id is None:
            return item.status in (Status.PENDING, Status.COLLECTING_RESULTS)
        info = infos[job_id]
        if item.status in LIVE:
            return info.finished and info.status is not JobStatus.COMPLETED
        silent = item.unknown_seconds if info.status is JobStatus.UNKNOWN else None
        lost = silent is not None and silent >= self._workshop.grace_seconds
        return info.finished or lost or item.status is Status.COLLECTING_RESULTS
