"""The queues of backends: polled by workers, stored in Redis, used for hints about pipelines."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ccat_workflow_manager.definition.compiled import CompiledPipeline, compile_pipeline
from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.errors import BackendError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.queue_hints import Asked, QueueLimits, hints
from ccat_workflow_manager.json_values import listed
from ccat_workflow_manager.services.worker_context import WorkerContext
from ccat_workflow_manager.settings import PREFIX

log = logging.getLogger(__name__)


def poll_queues(context: WorkerContext, backend_name: str) -> None:
    """Store the present queues of a backend. If it does not answer, the stored ones stay."""
    try:
        found = context.backend_handle(backend_name).queue_status()
    except BackendError as error:
        log.info("the queues of %s are not known now: %s", backend_name, error.message)
        return
    context.doorbell.remember(f"queues:{backend_name}", json.dumps([asdict(queue) for queue in found], default=str))


def stored_queues(doorbell: Doorbell, backend_name: str) -> list[dict[str, Any]]:
    """The queues of a backend at its last poll. Empty if it was never polled, or if Redis is away."""
    found: list[dict[str, Any]] = json.loads(doorbell.remembered(f"queues:{backend_name}") or "[]")
    return found


class QueueHints:
    """Hints about definitions, from the queues in Redis. Without Redis there are none: a hint is not worth a wait."""

    def __init__(self, doorbell: Doorbell, default_backend: str) -> None:
        self._doorbell = doorbell
        self._default_backend = default_backend

    def about(self, definition: object) -> list[str]:
        """Texts about what a valid definition lacks, or asks for that no backend and no queue offers."""
        pipeline = compile_pipeline(parse_pipeline(definition))
        default = pipeline.default_backend or self._default_backend
        steps = [Asked(step.spec.name, step.backend or default, step.resources) for step in pipeline.steps]
        return [
            *_without_image(pipeline),
            *_without_backend(steps),
            *hints(steps, {name: self._known(name) for name in {step.backend for step in steps}}),
        ]

    def _known(self, backend: str) -> Sequence[QueueLimits]:
        return [QueueLimits(**queue["limits"]) for queue in stored_queues(self._doorbell, backend) if queue["limits"]]


def _without_backend(steps: Sequence[Asked]) -> list[str]:
    known = registry.names()
    unknown = dict.fromkeys(step.backend for step in steps if step.backend not in known)
    return [f"there is no backend {name!r}, so runs are refused; known: {', '.join(known)}" for name in unknown]


def _without_image(pipeline: CompiledPipeline) -> list[str]:
    names = [step.spec.name for step in pipeline.steps if step.spec.image is None]
    if not names:
        return []
    subject, verb = ("the step", "names") if len(names) == 1 else ("the steps", "name")
    where = f"that runs in localdev only, with {PREFIX}CONTAINER_RUNTIME=none"
    return [f"{subject} {listed(names, 5)} {verb} no image: {where}"]
