"""What can be removed of a finished run."""

from __future__ import annotations

from enum import StrEnum


class What(StrEnum):
    """The parts of a finished run that are removed together."""

    RUN = "run"
    """Its rows, and all its directories."""
    WORKSPACES = "workspaces"
    """The workspaces and the /tmp of its attempts. Products, logs and manifests stay."""
    FAILED_OUTPUT = "failed_output"
    """The output of attempts that did not complete."""
