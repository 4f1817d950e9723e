"""Taking over from an earlier supervisor: what has become of its jobs is read from what their scripts have left."""

from __future__ import annotations

from contextlib import suppress

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import read_small
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.supervisor.engine import Engine
from ccat_workflow_manager.hpc.supervisor.index import Index
from ccat_workflow_manager.hpc.supervisor.jobs import Job, State, read_part


def restore(engine: Engine, index: Index) -> None:
    for job in index.load(engine.boot):
        engine.keep(job)
        try:
            if not _restore_finished(engine, job):
                _restore_unfinished(engine, index, job)
        except (OSError, ValueError) as error:
            job.state = State.FINISHED
            job.lost = (FailureReason.EXIT_RECORD_UNREADABLE, str(error))


def _restore_finished(engine: Engine, job: Job) -> bool:
    """Raises OSError and ValueError."""
    found = read_small(job.files.record, root=job.files.directory)
    if found is None:
        return False
    if parse_exit_record(found.text).finished_at is None:
        # A script that was alone has published it, without what only a supervisor knows.
        engine.take_over_ended(job)
    else:
        job.state, job.record = State.FINISHED, found.text
    return True


def _restore_unfinished(engine: Engine, index: Index, job: Job) -> None:
    """Raises OSError."""
    part = read_part(job.files)
    if part is None:
        # Never started. Its script may still be on its way if the last supervisor was killed in this very moment: of
        # two scripts one claims the attempt, and the other one gives up.
        if job.boot != engine.boot:
            job.boot = engine.boot
            with suppress(OSError):
                index.add(job)
        if job.stop is None:
            engine.queue.put(job)
        else:
            engine.drop(job)
    elif part.complete or not engine.adopt(job, part):
        engine.take_over_ended(job)
