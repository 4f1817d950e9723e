"""Reading what Slurm's commands print. Pure text; a ValueError means that it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from ccat_workflow_manager.hpc.queue_hints import QueueLimits

_N = TypeVar("_N", int, float)

Place = tuple[str, int | None]
"""The number of a job and, in an array, its index."""

TIME_FORMAT = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}
"""Environment for the commands below: times as seconds since the epoch, wherever the submit node is."""

_SEPARATOR = "|"
# The name comes last: it is the only field whose content others may choose freely.
_SQUEUE = ("%i", "%T", "%V", "%S", "%e", "%l", "%N", "%P", "%C", "%r", "%j")
_SACCT = (
    "JobID", "State", "ExitCode", "Submit", "Start", "End", "ElapsedRaw", "TimelimitRaw", "TotalCPU", "MaxRSS",
    "CPUTimeRAW", "NodeList", "JobName",
)  # fmt: skip
_SINFO = ("%P", "%a", "%l", "%F", "%C", "%c", "%m", "%G")
_PLACE = re.compile(r"(\d+)(?:_(\d+))?")
_NOT_OURS = re.compile(r"\d+\+\d+|\d+_\[[^]]*\].*")
"""Parts of heterogeneous jobs; the tasks of an array that accounting knows only in common."""
_GPUS = re.compile(r"gpu(?::[^:(]*[^:(\d][^:(]*)?:(\d+)")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

SQUEUE = ("squeue", "--noheader", "--all", "--states=all", "--array", f"--format={_SEPARATOR.join(_SQUEUE)}")
SACCT = ("sacct", "--noheader", "--parsable2", "--noconvert", f"--format={','.join(_SACCT)}")
SINFO = ("sinfo", "--noheader", f"--format={_SEPARATOR.join(_SINFO)}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the controller, or the accounting, says about one job."""

    state: str
    """One word in capitals."""
    name: str = ""
    reason: str = ""
    detail: str = ""
    """What follows the state: `by 1000`."""
    partition: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    limit_seconds: float | None = None
    elapsed_seconds: float | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    allocated_seconds: float | None = None
    """Of all CPUs that it had, used or not, once it has ended."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What `sinfo` says about a partition."""

    name: str
    up: bool
    limit: str
    nodes: Mapping[str, int] = field(default_factory=dict)
    cpus: Mapping[str, int] = field(default_factory=dict)
    cpus_per_node: int = 0
    """Of its largest node, as the memory."""
    memory_mb: int = 0
    default: bool = False
    gres: tuple[str, ...] = ()

    @property
    def limits(self) -> QueueLimits:
        """What one job may ask of it."""
        seconds = None if self.limit == "infinite" else _duration(self.limit)
        return QueueLimits(
            self.name,
            default=self.default,
            cpus=self.cpus_per_node,
            memory_gb=self.memory_mb / 1024,
            gpus=sum(int(match[1]) for each in self.gres if (match := _GPUS.match(each))),
            hours=None if seconds is None else seconds / 3600,
        )


def parse_squeue(text: str) -> dict[Place, Seen]:
    """The jobs that the controller knows."""
    jobs = {}
    for line in text.splitlines():
        number, state, submit, start, end, limit, nodes, partition, cpus, reason, name = _fields(line, len(_SQUEUE))
        place = _place(number)
        if place is None:
            continue
        word, _, detail = state.partition(" ")
        started_at, ended_at = _time(start), _time(end)
        jobs[place] = Seen(
            state=_word(word),
            detail=detail,
            name=name,
            reason="" if reason == "None" else reason,
            partition=partition,
            submitted_at=_time(submit),
            started_at=started_at,
            ended_at=ended_at,
            limit_seconds=_limit(limit),
            node=_nodes(nodes),
            allocated_seconds=_allocated(cpus, started_at, ended_at),
        )
    return jobs


def parse_sacct(text: str) -> dict[Place, Seen]:
    """The jobs that the accounting knows, with the largest memory and the CPU time of their steps."""
    jobs: dict[Place, Seen] = {}
    for line in text.splitlines():
        number, state, exit_code, submit, start, end, elapsed, limit, cpu, memory, allocated, nodes, name = _fields(
            line, len(_SACCT)
        )
        base, dot, _ = number.partition(".")
        place = _place(base)
        if place is None:
            continue
        cpu_seconds, peak = _duration(cpu), _bytes(memory)
        if dot:
            job = jobs.get(place)
            if job is not None:
                jobs[place] = replace(
                    job, peak_bytes=_most(job.peak_bytes, peak), cpu_seconds=_most(job.cpu_seconds, cpu_seconds)
                )
            continue
        word, _, detail = state.partition(" ")
        code, _, signal = exit_code.partition(":")
        jobs[place] = Seen(
            state=_word(word),
            detail=detail,
            name=name,
            submitted_at=_time(submit),
            started_at=_time(start),
            ended_at=_time(end),
            limit_seconds=60.0 * int(limit) if limit.isdecimal() else None,
            elapsed_seconds=float(elapsed) if elapsed.isdecimal() else None,
            node=_nodes(nodes),
            exit_code=int(code or 0),
            signal=int(signal or 0) or None,
            cpu_seconds=cpu_seconds,
            peak_bytes=peak,
            allocated_seconds=float(allocated) if allocated.isdecimal() else None,
        )
    return jobs


def parse_sinfo(text: str) -> list[Partition]:
    """The partitions; one whose nodes differ is printed in several lines."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        word, avail, limit, nodes, cpus, cpus_per_node, memory, gres = _fields(line, len(_SINFO))
        name = word.removesuffix("*")
        found = partitions.get(name, Partition(name, avail == "up", limit, default=name != word))
        more = () if gres in ("(null)", "N/A", "") else tuple(gres.split(","))
        partitions[name] = replace(
            found,
            nodes=_sum(found.nodes, nodes),
            cpus=_sum(found.cpus, cpus),
            cpus_per_node=max(found.cpus_per_node, int(cpus_per_node.rstrip("+"))),
            memory_mb=max(found.memory_mb, int(memory.rstrip("+"))),
            gres=tuple(dict.fromkeys((*found.gres, *more))),
        )
    return list(partitions.values())


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: names and values."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    config = {name.strip(): value.strip() for name, value in pairs}
    if "MaxArraySize" not in config:
        raise ValueError("no MaxArraySize in it")
    return config


def parse_sbatch(text: str) -> str:
    """The number of the job that `sbatch --parsable` prints, perhaps with the name of the cluster after it."""
    lines = text.split()
    number = lines[-1].partition(";")[0] if lines else ""
    if not number.isdecimal():
        raise ValueError("no number of a job")
    return number


# --- fields ----------------------------------------------------------------------------------------------------------


def _fields(line: str, count: int) -> Sequence[str]:
    fields = line.split(_SEPARATOR, count - 1)
    if len(fields) != count:
        raise ValueError(f"{count} fields expected in {line[:200]!r}")
    return fields


def _place(text: str) -> Place | None:
    match = _PLACE.fullmatch(text)
    if match is None:
        if _NOT_OURS.fullmatch(text):
            return None
        raise ValueError(f"{text[:100]!r} is not the number of a job")
    return match[1], int(match[2]) if match[2] is not None else None


def _word(text: str) -> str:
    # "CANCELLED+" is how a narrow column would cut it.
    word = text.rstrip("+")
    if not word:
        raise ValueError("no state")
    return word


def _time(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdecimal() and int(text) > 0 else None


def _allocated(cpus: str, started_at: datetime | None, ended_at: datetime | None) -> float | None:
    if not cpus.isdecimal() or started_at is None or ended_at is None:
        return None
    return int(cpus) * max(0.0, (ended_at - started_at).total_seconds())


def _nodes(text: str) -> str | None:
    return None if text in ("", "None assigned", "(null)") else text


def _limit(text: str) -> float | None:
    return None if text in ("UNLIMITED", "INVALID", "NOT_SET", "Partition_Limit", "") else _duration(text)


def _duration(text: str) -> float | None:
    """`[days-][hours:]minutes:seconds[.fraction]` in seconds."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _bytes(text: str) -> int | None:
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _most(one: _N | None, other: _N | None) -> _N | None:
    known = [each for each in (one, other) if each is not None]
    return max(known, default=None)


def _sum(so_far: Mapping[str, int], text: str) -> dict[str, int]:
    """`allocated/idle/other/total`."""
    values = [int(part.rstrip("K")) * (1000 if part.endswith("K") else 1) for part in text.split("/")]
    names = ("allocated", "idle", "other", "total")
    return {name: so_far.get(name, 0) + value for name, value in zip(names, values, strict=True)}
