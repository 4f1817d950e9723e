"""Settings for a server process, which does not keep what is needed only to read them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ccat_workflow_manager.forked import in_forked_process
from ccat_workflow_manager.settings.loader import load_settings
from ccat_workflow_manager.settings.service import Settings


def load_settings_apart(
    overrides: Mapping[str, object] | None = None, *, serves_api: bool = False, runs_jobs: bool = False
) -> Settings:
    """Load the settings in a forked process, the only one that imports Dynaconf: that takes 10 MB.

    Must be called before the first thread starts. Raises the errors of `load_settings`.
    """
    return in_forked_process(partial(load_settings, overrides, serves_api=serves_api, runs_jobs=runs_jobs))
