"""Asks a backend whether it answers."""

from __future__ import annotations

import tempfile
import threading

from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.settings import Settings

_SECONDS = 20.0


def ping(name: str, settings: Settings) -> tuple[bool, str]:
    """Whether the backend answers, and its words; empty words if there is nothing to ask."""
    answers: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(name, settings)), name=f"ping {name}", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answers[0] if answers else (False, f"it does not answer within {_SECONDS:.0f} s")


def _ask(name: str, settings: Settings) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="ccat-wm-doctor-") as state_dir:
        try:
            backend = registry.create_filtered(
                name,
                **{
                    "state_dir": state_dir,
                    "pipeline_base_dir": str(settings.pipeline_base_dir),
                    "sif_cache_dir": str(settings.sif_cache_dir),
                    "redis_url": settings.redis_url,
                    **settings.for_backend(name),
                },
            )
            try:
                return True, backend.ping()
            finally:
                backend.close()
        except (WorkflowError, OSError) as error:
            return False, " ".join(str(error).split())
