"""What commands that start processes share: their log, their databases, and the errors of their start."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

from ccat_workflow_manager.commands.exit_codes import exit_code
from ccat_workflow_manager.commands.log_format import JsonFormatter, TextFormatter
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable, WorkflowError

if TYPE_CHECKING:
    from pathlib import Path

    from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
    from ccat_workflow_manager.settings import Settings

log = logging.getLogger(__name__)

_UMASK = 0o027
_CHATTY = ("httpx", "httpcore", "alembic", "rq.worker", "uvicorn.access")


def keep_files_private() -> None:
    """What this process and its jobs make is not for other users of the machine."""
    os.umask(_UMASK)


def set_up_log(level: str, file: Path | None = None, *, as_json: bool = False) -> None:
    """Log to stderr, or to a file where a display uses the terminal. Forked children inherit the handlers."""
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet = max(logging.WARNING, logging.getLevelName(level))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(quiet)


@contextmanager
def starting(settings: Settings | None = None) -> Iterator[None]:
    """Turn configuration errors into unavailable services: the command line and the settings have been checked.

    With the settings of a process that logs JSON, its last words are a line of JSON, too.
    """
    try:
        with _started():
            yield
    except WorkflowError as error:
        if settings is None or not settings.logs_json:
            raise
        log.critical("%s", error.message)
        raise typer.Exit(exit_code(error)) from None


@contextmanager
def _started() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        raise ServiceUnavailable(error.message) from error
    except OSError as error:
        if error.filename is None:
            raise
        raise ServiceUnavailable(f"{error.filename} cannot be used: {error.strerror}") from error


@contextmanager
def reachable(settings: Settings, *, redis: bool = True) -> Iterator[Settings]:
    """The settings with the URLs of running embedded servers where they name no server; keeps those servers up."""
    from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey

    with ExitStack() as used:
        if not settings.database_url:
            url = _joined(EmbeddedPostgres(settings.data_dir), "DATABASE_URL", used)
            settings = settings.model_copy(update={"database_url": url})
        if redis and not settings.redis_url:
            url = _joined(EmbeddedValkey(settings.data_dir), "REDIS_URL", used)
            settings = settings.model_copy(update={"redis_url": url})
        yield settings


def _joined(server: EmbeddedPostgres | EmbeddedValkey, setting: str, used: ExitStack) -> str:
    from ccat_workflow_manager.settings import PREFIX

    if server.pid is None:
        raise ServiceUnavailable(
            f"{PREFIX}{setting} is empty and no embedded {server.name} is running in {server.home.parent}: "
            f"start everything with `ccat-wm up`, or set {PREFIX}{setting}"
        )
    url = server.start()
    used.callback(server.stop)
    return url
