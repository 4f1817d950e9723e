"""Where a backend is asked: whatever it raises becomes an error that operators can read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ccat_workflow_manager.errors import BackendConfused, WorkflowError

log = logging.getLogger(__name__)


@contextmanager
def asking(backend: str) -> Iterator[None]:
    """Around every call of a backend: a fault in one, a plug-in say, is an answer that cannot be read."""
    try:
        yield
    except WorkflowError:
        raise
    except Exception as error:  # somebody else's code; nothing may be concluded from what it raises
        log.exception("the backend %s raised what no backend may", backend)
        raise BackendConfused(f"{backend} failed in an unexpected way: {error!r}", backend=backend) from error
