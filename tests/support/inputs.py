"""Inputs of files only."""

from __future__ import annotations

from typing import NoReturn

from ccat_workflow_manager.execution.launch_spec import Progress


def no_fetch(url: str, sha256: str | None, progress: Progress) -> NoReturn:
    """Where nothing is to be fetched."""
    raise AssertionError(f"{url} is not to be fetched")
