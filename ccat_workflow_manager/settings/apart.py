"""Settings for a server process, which does not keep what is needed only to read them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from functools import partial

from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.settings.loader import load_settings
from ccat_workflow_manager.settings.service import Settings


def load_settings_apart(
    overrides: Mapping[str, object] | None = None, *, serves_api: bool = False, runs_jobs: bool = False
) -> Settings:
    """Load the settings in a forked process, the only one that imports Dynaconf: that takes 10 MB.

    Must be called before the first thread starts. Raises the errors of `load_settings`.
    """
    load = partial(load_settings, overrides, serves_api=serves_api, runs_jobs=runs_jobs)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with open(writer, "wb") as pipe:
                pipe.write(_loaded(load))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    # Without an answer something unforeseen has happened: it happens here once more, with its traceback.
    loaded = pickle.loads(data) if data else load()
    if isinstance(loaded, ConfigurationError):
        raise loaded
    assert isinstance(loaded, Settings)
    return loaded


def _loaded(load: Callable[[], Settings]) -> bytes:
    """The settings, or the error, as bytes."""
    try:
        return pickle.dumps(load())
    except ConfigurationError as error:
        return pickle.dumps(error)
