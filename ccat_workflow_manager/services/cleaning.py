"""Letting a backend forget jobs whose end has been recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.services.asking import asking

log = logging.getLogger(__name__)


def forget(backend: HPCBackend, job_ids: Sequence[str]) -> None:
    """Clean up finished jobs; a backend that cannot do so now keeps them, which costs only room."""
    if not job_ids:
        return
    try:
        with asking(backend.name):
            failpoints.around("backend.forget", lambda: backend.cleanup_many(job_ids))
    except BackendError as error:
        log.warning("%s keeps %d finished jobs for now: %s", backend.name, len(job_ids), error.message)
