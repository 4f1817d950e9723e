"""Reaping: jobs that run at a backend though the attempt they were started for is over are stopped, visibly.

They are what is left when everything else has failed: a cancel that the scheduler forgot, a job that came back after it
was taken as lost. A job is only ever stopped if its name is that of an attempt which this database knows, which was
made with this very backend, and which has been over for a while. Whatever else has a name like ours may belong to
another deployment: it is counted and left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db.fleet import FleetStore
from ccat_workflow_manager.db.orphans import OrphanJob, OrphanStore
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.models import parse_job_name
from ccat_workflow_manager.services.asking import asking
from ccat_workflow_manager.services.cleaning import forget
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)


class OrphanReaper:
    """Looks through the jobs of backends for those that nobody waits for any more."""

    def __init__(self, worker_context: WorkerContext, *, every_seconds: float, grace_seconds: float) -> None:
        self._context = worker_context
        self._every_seconds = every_seconds
        self._grace_seconds = grace_seconds

    def reap(self, backend_name: str) -> int:
        """Stop the strays of a backend, unless somebody has looked for them lately: how many there were."""
        backend = self._context.usable(backend_name)
        if backend is None or not backend.capabilities.lists:
            return 0
        with self._context.database.begin("commit.take-reap") as unit:
            # Callers come at the same interval: nobody is to come too early by a hair.
            mine = OrphanStore(unit).take(backend_name, self._every_seconds / 2)
        if not mine:
            return 0
        try:
            with asking(backend_name):
                seen = failpoints.around("backend.list", lambda: list(backend.list_jobs()))
                jobs = [(job, parse_job_name(job.job_name)) for job in seen]
        except BackendError as error:
            log.warning("%s cannot be searched for stray jobs: %s", backend_name, error.message)
            with self._context.database.begin("commit.reaped") as unit:
                OrphanStore(unit).note_unlisted(backend_name, f"its jobs cannot be listed: {error.message}")
            return 0
        with self._context.database.read() as unit:
            before = OrphanStore(unit).listed(backend_name)
            over = OrphanStore(unit).over(backend_name, [attempt for _, attempt in jobs if attempt is not None])
        unknown = [job.job_name for job, attempt in jobs if attempt not in over]
        strays = []
        for job, attempt in jobs:
            seconds = over.get(attempt) if attempt is not None else None
            if attempt is not None and seconds is not None and seconds > self._grace_seconds:
                strays.append(OrphanJob(job.job_id, attempt, seconds))
        if unknown:
            names = ", ".join(sorted(unknown)[:5])
            log.info(
                "%s has %d jobs with names like ours that are not known here: %s", backend_name, len(unknown), names
            )
        problem = self._stop(backend_name, backend, strays) if strays else None
        with self._context.database.begin("commit.reaped") as unit:
            OrphanStore(unit).note(backend_name, unknown=len(unknown), strays=strays, problem=problem)
            FleetStore(unit).well(backend_name)
        # Those of the last time that are not there any more: for a job taken as lost nobody else does so.
        forget(backend, sorted(before - {job.job_id for job in seen}))
        return len(strays)

    @staticmethod
    def _stop(backend_name: str, backend: HPCBackend, strays: Sequence[OrphanJob]) -> str | None:
        """Have them stopped; why not, if that could not be done."""
        ids = sorted({stray.job_id for stray in strays})
        longest = max(stray.over_seconds for stray in strays)
        log.warning(
            "stopping %d jobs at %s whose attempts are over, for up to %.0f s: %s",
            len(ids), backend_name, longest, ", ".join(ids[:10]),
        )  # fmt: skip
        try:
            with asking(backend_name):
                failpoints.around("backend.reap", lambda: backend.cancel_many(ids))
        except BackendError as error:
            log.error("%d jobs run at %s that nobody wants: %s", len(ids), backend_name, error.message)
            return f"{len(ids)} jobs that nobody waits for could not be stopped: {error.message}"
        return None
