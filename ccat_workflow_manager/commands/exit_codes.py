"""How a command ends: its exit code, and what it says on stderr when something went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from ccat_workflow_manager.errors import (
    ConfigurationError,
    Fault,
    Invalid,
    RequestError,
    ServiceUnavailable,
    WorkflowError,
)


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    WORK_FAILED = 1
    WRONG_USAGE = 2
    NO_SERVICE = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class WorkFailed(WorkflowError):
    """The work that was asked for did not complete."""

    code = "work_failed"


class WrongUsage(Invalid):
    """The command line or a file that it names cannot be used."""

    code = "wrong_usage"


def exit_code(error: WorkflowError) -> ExitCode:
    """Whose turn it is, as a number."""
    if isinstance(error, WorkFailed):
        return ExitCode.WORK_FAILED
    if isinstance(error, (RequestError, ConfigurationError)):
        return ExitCode.WRONG_USAGE
    return ExitCode.NO_SERVICE


def report(error: WorkflowError) -> None:
    """One sentence; then, if there are several faults, one a line with its path."""
    faults: tuple[Fault, ...] = getattr(error, "faults", ())
    sys.stdout.flush()
    if len(faults) > 1 and str(faults[0]) not in error.message.splitlines()[0]:
        lines = [error.message.splitlines()[0].rstrip(":") + ":", *(f"  {fault}" for fault in faults)]
    elif len(faults) > 1:
        lines = [f"{len(faults)} things are wrong:", *(f"  {fault}" for fault in faults)]
    else:
        lines = error.message.splitlines()
    sys.stderr.write("\n".join([f"error: {lines[0]}", *lines[1:]]) + "\n")


def drop_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, silently."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def starting() -> Iterator[None]:
    """From here on the input is known to be good: what cannot be used now is a service (a database, a port)."""
    try:
        yield
    except ConfigurationError as error:
        raise ServiceUnavailable(error.message) from error
