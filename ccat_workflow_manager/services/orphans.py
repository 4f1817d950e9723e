"""Reaping: stop jobs that run at a backend although the attempt they were started for is over, and report it.

A job becomes an orphan when the scheduler forgot a cancel, or when the job reappears after it was taken as lost. It is
stopped only if its name is that of an attempt that this database knows, that was made with this very backend, and that
has been over for a while. Other jobs with such names may belong to another deployment: they are only counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ccat_workflow_manager.db.backends import BackendStore
from ccat_workflow_manager.db.orphans import OrphanJob, OrphanStore
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)


class OrphanReaper:
    """Searches backends for orphans and stops them."""

    def __init__(self, context: WorkerContext, *, every_seconds: float, grace_seconds: float) -> None:
        self._context = context
        self._every_seconds = every_seconds
        self._grace_seconds = grace_seconds

    def reap(self, backend_name: str) -> int:
        """Stop the orphans of a backend, unless it has just been searched. Returns how many there were."""
        backend = self._context.usable_backend(backend_name)
        if backend is None or not backend.capabilities.lists:
            return 0
        with self._context.database.begin("commit.take-reap") as unit:
            # The calls come at the same interval: half of it, so that none is a little too early.
            mine = OrphanStore(unit).acquire_sweep_lease(backend_name, self._every_seconds / 2)
        if not mine:
            return 0
        try:
            jobs = backend.list_jobs()
        except BackendError as error:
            log.warning("%s cannot be searched for orphans: %s", backend_name, error.message)
            with self._context.database.begin("commit.reaped") as unit:
                OrphanStore(unit).record_failed_sweep(backend_name, f"its jobs cannot be listed: {error.message}")
            return 0
        with self._context.database.read() as unit:
            before = OrphanStore(unit).last_orphans(backend_name)
            over = OrphanStore(unit).seconds_over(backend_name, [attempt for _, attempt in jobs if attempt is not None])
        unknown = sorted(job.job_name for job, attempt in jobs if attempt not in over)
        if unknown:
            names = ", ".join(unknown[:5])
            log.info("%s has %d jobs with names like ours that this database does not know: %s",
                     backend_name, len(unknown), names)  # fmt: skip
        orphans = [
            OrphanJob(job.job_id, attempt, seconds)
            for job, attempt in jobs
            if attempt is not None and (seconds := over.get(attempt)) is not None and seconds > self._grace_seconds
        ]
        problem = _stop(backend, orphans) if orphans else None
        with self._context.database.begin("commit.reaped") as unit:
            OrphanStore(unit).record_sweep(backend_name, unknown=len(unknown), orphans=orphans, problem=problem)
            BackendStore(unit).mark_healthy(backend_name)
        # Orphans of the last search that are gone now. No other service cleans up a job that was taken as lost.
        backend.cleanup_many(sorted(before - {job.job_id for job, _ in jobs}))
        return len(orphans)


def _stop(backend: BackendHandle, orphans: Sequence[OrphanJob]) -> str | None:
    """Returns why the orphans could not be stopped, or None."""
    ids = sorted({orphan.job_id for orphan in orphans})
    longest = max(orphan.over_seconds for orphan in orphans)
    log.warning(
        "stopping %d jobs at %s whose attempts are over, for up to %.0f s: %s",
        len(ids), backend.name, longest, ", ".join(ids[:10]),
    )  # fmt: skip
    try:
        backend.cancel_many(ids, point="backend.reap")
    except BackendError as error:
        log.error("%d orphans at %s could not be stopped: %s", len(ids), backend.name, error.message)
        return f"{len(ids)} jobs of attempts that are over could not be stopped: {error.message}"
    return None
