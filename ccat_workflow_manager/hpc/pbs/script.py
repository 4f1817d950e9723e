"""From the resources of a step to the options of `qsub`. Pure text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise

from ccat_workflow_manager.hpc.pbs.settings import PbsSettings
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Resources

LOWEST_PRIORITY = -1024
HIGHEST_PRIORITY = 1023

_WORD = re.compile(r"[^\x00-\x20\x7f]{1,200}")
_CHUNK = re.compile(r"[A-Za-z0-9_.-]+(=[A-Za-z0-9_.,-]+)?(:[A-Za-z0-9_.-]+(=[A-Za-z0-9_.,-]+)?)*")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+@%=-]*")
"""To PBS a colon ends the name of a host, and `$NAME` and `^NAME^` are variables."""


class Dialect(Enum):
    """The two families. They share the names of their commands and little else."""

    OPENPBS = "OpenPBS or PBS Pro"
    TORQUE = "Torque"


EXTRA: Mapping[str, tuple[re.Pattern[str], str, frozenset[Dialect]]] = {
    "chunk": (_CHUNK, "more of the chunk, such as mpiprocs=2:vendor=amd", frozenset(Dialect)),
    "place": (_CHUNK, "such as scatter:excl", frozenset({Dialect.OPENPBS})),
    "project": (_WORD, "a word", frozenset({Dialect.OPENPBS})),
}
"""The names that a step may use in `resources.extra`, with the families that know them. All others are refused."""


def render_options(resources: Resources, priority: int, site: PbsSettings, dialect: Dialect) -> tuple[str, ...]:
    """The options for the resources of a job. Raises ValueError."""
    extra = _checked(resources.extra, dialect)
    cpus = max(1, math.ceil(resources.cpu - 1e-9))
    megabytes = max(1, math.ceil(resources.memory_gb * 1024 - 1e-9))
    chunk = ":" + extra["chunk"] if "chunk" in extra else ""
    wanted = [f"walltime={_walltime(resources.time_hours)}"]
    if dialect is Dialect.OPENPBS:
        gpus = f":ngpus={resources.gpu}" if resources.gpu else ""
        wanted.insert(0, f"select=1:ncpus={cpus}:mem={megabytes}mb{gpus}{chunk}")
    else:
        gpus = f":gpus={resources.gpu}" if resources.gpu else ""
        wanted[:0] = [f"nodes=1:ppn={cpus}{gpus}{chunk}", f"mem={megabytes}mb"]
    if "place" in extra:
        wanted.append(f"place={extra['place']}")
    flags = {
        "-q": _word("resources.partition (the queue)", resources.partition or site.queue),
        "-A": _word("resources.account", resources.account or site.account),
        "-P": extra.get("project", ""),
        "-p": str(min(HIGHEST_PRIORITY, max(LOWEST_PRIORITY, priority))) if priority else "",
    }
    options = [word for each in wanted for word in ("-l", each)]
    return (*options, *(word for flag, value in flags.items() if value for word in (flag, value)))


def limit_scope(options: Sequence[str]) -> tuple[str, ...]:
    """The queue: limits are counted by queue."""
    return tuple(queue for flag, queue in pairwise(options) if flag == "-q")


def render_qsub(options: Sequence[str], *, name: str, output: str, script: str) -> list[str]:
    """The command that submits the script in a file.

    Without `-V` jobs get nothing of the environment; `-r n`: never started again by itself; `-m n`: no mail.
    """
    return ["qsub", "-N", name, "-S", "/bin/sh", "-r", "n", "-m", "n", "-j", "oe", "-o", output, *options, script]


def output_path(path: str) -> str:
    """A path as `-o` needs it, or /dev/null if PBS would misread it; the logs of the command are elsewhere."""
    return path if _PLAIN_PATH.fullmatch(path) else "/dev/null"


def _checked(extra: Mapping[str, JSON], dialect: Dialect) -> dict[str, str]:
    values = {}
    for name, value in extra.items():
        pattern, words, dialects = EXTRA.get(name, (None, "", frozenset[Dialect]()))
        if pattern is None:
            raise ValueError(f"extra.{name} is not one of the options that a step may choose: {', '.join(EXTRA)}")
        if dialect not in dialects:
            raise ValueError(f"extra.{name} is not known to {dialect.value}")
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"extra.{name} must be {words}, not {value!r}")
        values[name] = value
    return values


def _word(what: str, value: str | None) -> str:
    if value and not _WORD.fullmatch(value):
        raise ValueError(f"{what} must be one word, not {value!r}")
    return value or ""


def _walltime(hours: float) -> str:
    seconds = max(1, math.ceil(hours * 3600 - 1e-6))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
