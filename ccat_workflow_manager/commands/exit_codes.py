"""Exit codes, and the errors that commands print on stderr."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

from ccat_workflow_manager.errors import ConfigurationError, Fault, Invalid, RequestError, WorkflowError


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    WORK_FAILED = 1
    WRONG_USAGE = 2
    NO_SERVICE = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class WrongUsage(Invalid):
    """The command line, or a file that it names, cannot be used."""

    code = "wrong_usage"


def exit_code(error: WorkflowError) -> ExitCode:
    if isinstance(error, (RequestError, ConfigurationError)):
        return ExitCode.WRONG_USAGE
    return ExitCode.NO_SERVICE


def report(error: WorkflowError) -> None:
    """Print one sentence; several faults follow on lines of their own."""
    faults: tuple[Fault, ...] = getattr(error, "faults", ())
    sys.stdout.flush()
    if len(faults) > 1 and str(faults[0]) not in error.message.splitlines()[0]:
        lines = [error.message.splitlines()[0].rstrip(":") + ":", *(f"  {fault}" for fault in faults)]
    elif len(faults) > 1:
        lines = [f"{len(faults)} faults:", *(f"  {fault}" for fault in faults)]
    else:
        lines = error.message.splitlines()
    sys.stderr.write("\n".join([f"error: {lines[0]}", *lines[1:]]) + "\n")


def drop_stdout() -> None:
    """Discard what is still buffered, after the reader of stdout has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
