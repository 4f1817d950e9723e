"""Runs nothing: for dry runs and for tests of a program's structure."""

from __future__ import annotations

from ccat_workflow_manager.flow.jobs import JobBackend
from ccat_workflow_manager.hpc import registry


class NoopExecutionBackend(JobBackend):
    """Every task ends at once, with a placeholder as its result."""

    def __init__(self, name: str = "default", **settings: object) -> None:
        super().__init__(name, registry.create("noop", **settings))
