"""From the resources of a step to the options of `sbatch`. Pure text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from ccat_workflow_manager.hpc.slurm.settings import SlurmSettings
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Resources

SHORTEST_FOR_SIGNAL_MINUTES = 10
"""Slurm may send the signal up to a minute early; a shorter job would lose too much of its time."""

_COUNTED_BY = ("--partition=", "--account=", "--qos=", "--reservation=")
_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,500}")


def _text(value: JSON) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("a text without line breaks")
    return value


def _count(value: JSON) -> str:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("a whole number, 1 or more")
    return str(value)


def _text_or_count(value: JSON) -> str:
    return _text(value) if isinstance(value, str) else _count(value)


def _flag(value: JSON) -> str:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return "yes" if value else ""


EXTRA: Mapping[str, Callable[[JSON], str]] = {
    "qos": _text,
    "constraint": _text,
    "gres": _text,
    "gpu_type": _text,
    "reservation": _text,
    "licenses": _text,
    "wckey": _text,
    "comment": _text,
    "nodelist": _text,
    "exclude": _text,
    "nodes": _text_or_count,
    "ntasks": _count,
    "ntasks_per_node": _count,
    "ntasks_per_core": _count,
    "threads_per_core": _count,
    "cores_per_socket": _count,
    "sockets_per_node": _count,
    "tmp": _text_or_count,
    "begin": _text,
    "deadline": _text,
    "nice": _count,
    "exclusive": _flag,
    "contiguous": _flag,
}
"""The names that a step may use in `resources.extra`, each with its check. All others are refused."""


def render_options(resources: Resources, priority: int, site: SlurmSettings) -> tuple[str, ...]:
    """The options for the resources of a job; jobs with the same ones can be one array. Raises ValueError."""
    extra = _checked(resources.extra)
    minutes = max(1, math.ceil(resources.time_hours * 60 - 1e-9))
    memory = max(1, math.ceil(resources.memory_gb * 1024 - 1e-9))
    chosen = {
        "nodes": extra.pop("nodes", "1"),
        "ntasks": extra.pop("ntasks", "" if "ntasks_per_node" in extra else "1"),
        "cpus-per-task": str(max(1, math.ceil(resources.cpu - 1e-9))),
        "mem": f"{memory}M",
        "time": str(minutes),
        "partition": resources.partition or site.partition,
        "account": resources.account or site.account,
        "qos": extra.pop("qos", site.qos),
        "gres": _gres(resources.gpu, extra.pop("gpu_type", ""), extra.pop("gres", "")),
        "signal": _signal(minutes, site.signal_seconds),
        "nice": extra.pop("nice", str(-priority) if priority < 0 else ""),
    }
    flags = [f"--{name}" for name in ("exclusive", "contiguous") if extra.pop(name, "")]
    chosen |= {name.replace("_", "-"): value for name, value in extra.items()}
    return (*(f"--{name}={value}" for name, value in chosen.items() if value), *flags)


def limit_scope(options: Sequence[str]) -> tuple[str, ...]:
    """The options that limits on the number of jobs depend on."""
    return tuple(option for option in options if option.startswith(_COUNTED_BY))


def render_sbatch(options: Sequence[str], *, name: str, output: str, tasks: int | None, limit: int = 0) -> list[str]:
    """The command, which reads the script from its input; `tasks` is the size of an array.

    There is no `--export`: all of the environment goes along, so `sbatch` is itself started with almost none. (Any
    other value makes Slurm log the user in on the node, which costs seconds and brings the user's whole profile.)
    """
    array = [] if tasks is None else [f"--array=0-{tasks - 1}" + (f"%{limit}" if limit else "")]
    return [
        "sbatch",
        "--parsable",
        "--no-requeue",
        f"--job-name={name}",
        "--chdir=/",
        f"--output={output}",
        "--open-mode=append",
        *array,
        *options,
    ]


def output_pattern(path: str) -> str:
    """A path as `--output` needs it, or /dev/null if Slurm cannot express it; the logs of the command are elsewhere."""
    if "\\" in path or "\n" in path:
        return "/dev/null"
    return path.replace("%", "%%")


def _checked(extra: Mapping[str, JSON]) -> dict[str, str]:
    values = {}
    for name, value in extra.items():
        kind = EXTRA.get(name)
        if kind is None:
            raise ValueError(f"extra.{name} is not one of the options that a step may choose: {', '.join(EXTRA)}")
        try:
            values[name] = kind(value)
        except ValueError as error:
            raise ValueError(f"extra.{name} must be {error}, not {value!r}") from None
    return values


def _gres(gpus: int, gpu_type: str, other: str) -> str:
    wanted = [f"gpu:{gpu_type}:{gpus}" if gpu_type else f"gpu:{gpus}"] if gpus else []
    return ",".join([*wanted, *([other] if other else [])])


def _signal(minutes: int, seconds: int) -> str:
    """`B:` signals the shell of the job script, which passes it on to the command."""
    return f"B:TERM@{seconds}" if seconds and minutes >= SHORTEST_FOR_SIGNAL_MINUTES else ""
