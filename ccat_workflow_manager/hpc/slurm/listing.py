"""Parses the output of Slurm's commands. Pure text; a ValueError means that it cannot be parsed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from ccat_workflow_manager.hpc.base import NODE_STATES, QueueStatus
from ccat_workflow_manager.hpc.queue_hints import QueueLimits
from ccat_workflow_manager.hpc.waits import waited, waiting
from ccat_workflow_manager.json_values import JSON

_N = TypeVar("_N", int, float)

TaskId = tuple[str, int | None]
"""The number of a job and, in an array, its index."""

PLAIN = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC", "SLURM_BITSTR_LEN": "0"}
"""Environment for the commands below: times as seconds since the epoch, wherever the submit node is; whole arrays."""

_SEPARATOR = "|"
# The name comes last: it is the only field whose content users may choose freely.
_SQUEUE = ("%i", "%T", "%V", "%S", "%e", "%l", "%N", "%P", "%C", "%r", "%j")
_SACCT = (
    "JobID", "State", "ExitCode", "Submit", "Start", "End", "ElapsedRaw", "TimelimitRaw", "TotalCPU", "MaxRSS",
    "CPUTimeRAW", "NodeList", "JobName",
)  # fmt: skip
_SINFO = ("%P", "%a", "%l", "%F", "%C", "%c", "%m", "%T", "%G")
_QUEUED = ("%i", "%u", "%P")
_TASK = re.compile(r"(\d+)(?:_(\d+))?")
_NOT_OURS = re.compile(r"\d+\+\d+|\d+_\[[^]]*\].*")
"""Parts of heterogeneous jobs; the tasks of an array that accounting knows only in common."""
_GPUS = re.compile(r"gpu(?::[^:(]*[^:(\d][^:(]*)?:(\d+)")
_GIB_MB = 1024
_MOST_DIGITS = 11
_NODE_STATES = {
    "allocated": "full", "completing": "full", "mixed": "mixed", "idle": "idle", "planned": "idle",
    "down": "down", "drained": "down", "draining": "down", "fail": "down", "failing": "down", "error": "down",
    "maint": "down", "unknown": "down", "no_respond": "down", "inval": "down",
}  # fmt: skip
_NODE_FLAGS = "*~#!%$@^-+"
_NO_PLACE = re.compile(r"JobHeld|Dependency|BeginTime|JobArrayTaskLimit")
"""Why a job waits that would not start if there were room."""
_ELEMENTS = re.compile(r"(\d{1,11})(?:-(\d{1,11})(?::(\d{1,11}))?)?")
_SILENT = re.compile(r"unk\w*|(?!down).*\*")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

SQUEUE = ("squeue", "--noheader", "--all", "--states=all", "--array", f"--format={_SEPARATOR.join(_SQUEUE)}")
QUEUED = ("squeue", "--noheader", "--all", "--states=PENDING", f"--format={_SEPARATOR.join(_QUEUED)}")
"""The waiting jobs of all users, an array in one line."""
SACCT = ("sacct", "--noheader", "--parsable2", "--noconvert", f"--format={','.join(_SACCT)}")
NODES = ("sinfo", "--noheader", "--all", "--Node", "--format=%N|%T")
SINFO = ("sinfo", "--noheader", f"--format={_SEPARATOR.join(_SINFO)}")


@dataclass(frozen=True, slots=True)
class Seen:
    """One job according to the controller or the accounting."""

    state: str
    """One word in capitals."""
    name: str = ""
    reason: str = ""
    detail: str = ""
    """The words after the state: `by 1000`."""
    partition: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    limit_seconds: float | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    allocated_seconds: float | None = None
    """Of all CPUs that were allocated, used or not, once it has ended."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition according to `sinfo`."""

    name: str
    up: bool
    limit: str
    nodes: Mapping[str, int] = field(default_factory=dict)
    node_states: Mapping[str, int] = field(default_factory=dict)
    cpus: Mapping[str, int] = field(default_factory=dict)
    cpus_per_node: int = 0
    """Of its largest node, as the memory."""
    memory_mb: int = 0
    default: bool = False
    gres: tuple[str, ...] = ()

    @property
    def limits(self) -> QueueLimits:
        """What one job may request."""
        seconds = None if self.limit == "infinite" else _duration(self.limit)
        return QueueLimits(
            self.name,
            default=self.default,
            cpus=self.cpus_per_node,
            memory_gb=self.memory_mb / _GIB_MB,
            gpus=sum(int(match[1]) for each in self.gres if (match := _GPUS.match(each))),
            hours=None if seconds is None else seconds / 3600,
        )

    def status(
        self,
        jobs: Iterable[Seen],
        ours: str | None,
        details: Mapping[str, JSON],
        others: Mapping[str, int] | None = None,
        now: datetime | None = None,
    ) -> QueueStatus:
        """For operators. `jobs` are those of the service, `ours` are the partitions of steps that name none.

        `others` are the waiting jobs of other users by partition, if they are known.
        """
        now = now or datetime.now(UTC)
        here = [seen for seen in jobs if self.name in seen.partition.split(",")]
        states = [seen.state for seen in here]
        queued = [seen for seen in here if seen.state == "PENDING"]
        memory_gb = self.memory_mb / _GIB_MB
        return QueueStatus(
            self.name,
            available=self.up,
            running=states.count("RUNNING"),
            pending=states.count("PENDING"),
            cpus_total=self.cpus.get("total"),
            cpus_used=self.cpus.get("allocated"),
            memory_total_gb=memory_gb * self.nodes.get("total", 0),
            limits=replace(self.limits, default=self.name in ours.split(",")) if ours else self.limits,
            nodes=self.node_states,
            others_pending=None if others is None else others.get(self.name, 0),
            waited_seconds=waited(
                ((seen.submitted_at, seen.started_at) for seen in here if seen.state != "PENDING"), now
            ),
            waiting_seconds=waiting((seen.submitted_at for seen in queued if not _NO_PLACE.match(seen.reason)), now),
            details={
                "held": sum(seen.reason.startswith("JobHeld") for seen in queued),
                "time_limit": self.limit,
                "nodes": dict(self.nodes),
                "memory_gb_per_node": round(memory_gb, 1),
                "gres": list(self.gres),
                **details,
            },
        )


def parse_squeue(text: str) -> dict[TaskId, Seen]:
    """`squeue`."""
    jobs = {}
    for line in text.splitlines():
        number, state, submit, start, end, limit, nodes, partition, cpus, reason, name = _fields(line, len(_SQUEUE))
        task = _task(number)
        if task is None:
            continue
        word, _, detail = state.partition(" ")
        started_at, ended_at = _time(start), _time(end)
        jobs[task] = Seen(
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


def parse_sacct(text: str) -> dict[TaskId, Seen]:
    """`sacct`: jobs, with the largest memory and the CPU time of their steps."""
    jobs: dict[TaskId, Seen] = {}
    for line in text.splitlines():
        number, state, exit_code, submit, start, end, _elapsed, limit, cpu, memory, allocated, nodes, name = _fields(
            line, len(_SACCT)
        )
        base, dot, _ = number.partition(".")
        task = _task(base)
        if task is None:
            continue
        cpu_seconds, peak = _duration(cpu), _bytes(memory)
        if dot:
            job = jobs.get(task)
            if job is not None:
                jobs[task] = replace(
                    job, peak_bytes=_most(job.peak_bytes, peak), cpu_seconds=_most(job.cpu_seconds, cpu_seconds)
                )
            continue
        word, _, detail = state.partition(" ")
        code, _, signal = exit_code.partition(":")
        jobs[task] = Seen(
            state=_word(word),
            detail=detail,
            name=name,
            submitted_at=_time(submit),
            started_at=_time(start),
            ended_at=_time(end),
            limit_seconds=None if (minutes := _count(limit)) is None else 60.0 * minutes,
            node=_nodes(nodes),
            exit_code=int(code or 0),
            signal=int(signal or 0) or None,
            cpu_seconds=cpu_seconds,
            peak_bytes=peak,
            allocated_seconds=_count(allocated),
        )
    return jobs


def parse_sinfo(text: str) -> list[Partition]:
    """`sinfo`; a partition with unlike nodes has several lines."""
    partitions: dict[str, Partition] = {}
    for line in text.splitlines():
        word, avail, limit, nodes, cpus, cpus_per_node, memory, state, gres = _fields(line, len(_SINFO))
        name = word.removesuffix("*")
        found = partitions.get(name, Partition(name, avail == "up", limit, default=name != word))
        states = Counter(found.node_states)
        states[_node_state(state)] += _sum({}, nodes)["total"]
        more = () if gres in ("(null)", "N/A", "") else tuple(gres.split(","))
        partitions[name] = replace(
            found,
            nodes=_sum(found.nodes, nodes),
            node_states={name: states[name] for name in NODE_STATES},
            cpus=_sum(found.cpus, cpus),
            cpus_per_node=max(found.cpus_per_node, _known_count(cpus_per_node.rstrip("+"))),
            memory_mb=max(found.memory_mb, _known_count(memory.rstrip("+"))),
            gres=tuple(dict.fromkeys((*found.gres, *more))),
        )
    return list(partitions.values())


def parse_silent_nodes(text: str) -> frozenset[str]:
    """`sinfo --Node`: the nodes that do not answer, but are not taken for down yet."""
    nodes = (_fields(line, 2) for line in text.splitlines())
    return frozenset(name for name, state in nodes if _SILENT.fullmatch(state))


def parse_queued(text: str, ours: Collection[str], users: Collection[str]) -> dict[str, int]:
    """`squeue` of all users: how many jobs of others wait in each partition.

    `ours` are the numbers of our jobs and `users` the names that we may have.
    """
    lines = [_fields(line, len(_QUEUED)) for line in text.splitlines()]
    us = {user for number, user, _ in lines if re.split(r"[_+]", number, maxsplit=1)[0] in ours}.union(users)
    found: Counter[str] = Counter()
    for number, user, partitions in lines:
        for name in partitions.split(",") if user not in us else ():
            found[name] += _elements(number)
    return dict(found)


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`: names and values."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    config = {name.strip(): value.strip() for name, value in pairs}
    if "MaxArraySize" not in config:
        raise ValueError("no MaxArraySize in it")
    return config


def parse_boot_time(text: str) -> datetime | None:
    """`BOOT_TIME` of the configuration, as PLAIN asks for it or, in older versions, in words."""
    try:
        return _time(text) or datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def parse_sbatch(text: str) -> str:
    """`sbatch --parsable`: the number of the job, perhaps with the name of the cluster after it."""
    lines = text.split()
    number = lines[-1].partition(";")[0] if lines else ""
    if not number.isdecimal():
        raise ValueError("it has no job number")
    return number


# --- fields ----------------------------------------------------------------------------------------------------------


def _fields(line: str, count: int) -> Sequence[str]:
    fields = line.split(_SEPARATOR, count - 1)
    if len(fields) != count:
        raise ValueError(f"{count} fields expected in {line[:200]!r}")
    return fields


def _task(text: str) -> TaskId | None:
    match = _TASK.fullmatch(text)
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


def _count(text: str) -> int | None:
    """A number of up to eleven digits; None for all else, which is no number that Slurm has."""
    return int(text) if len(text) <= _MOST_DIGITS and text.isdecimal() else None


def _known_count(text: str) -> int:
    if (count := _count(text)) is None:
        raise ValueError(f"{text[:100]!r} is no number of up to {_MOST_DIGITS} digits")
    return count


def _node_state(text: str) -> str:
    """One of NODE_STATES. A node with `*` does not answer, one with `$` is reserved for maintenance."""
    word = text.rstrip(_NODE_FLAGS)
    if not word:
        raise ValueError("no state of nodes")
    return "down" if {"*", "$"} & set(text[len(word) :]) else _NODE_STATES.get(word, "other")


def _elements(number: str) -> int:
    """How many tasks a line stands for: `12`, `12_3`, `12_[0-9,12-20:2%4]`."""
    listed = re.search(r"_\[([^]%]*)", number)
    if listed is None:
        return 1
    ranges = map(_ELEMENTS.fullmatch, listed[1].split(","))
    return sum(1 if each is None or each[2] is None else _length(each) for each in ranges)


def _length(found: re.Match[str]) -> int:
    return (int(found[2]) - int(found[1])) // max(1, int(found[3] or 1)) + 1


def _time(text: str) -> datetime | None:
    seconds = _count(text)
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _allocated(cpus: str, started_at: datetime | None, ended_at: datetime | None) -> float | None:
    count = _count(cpus)
    if count is None or started_at is None or ended_at is None:
        return None
    return count * max(0.0, (ended_at - started_at).total_seconds())


def _nodes(text: str) -> str | None:
    return None if text in ("", "None assigned", "(null)") else text


def _limit(text: str) -> float | None:
    return None if text in ("UNLIMITED", "INVALID", "NOT_SET", "Partition_Limit", "") else _duration(text)


def _duration(text: str) -> float | None:
    """`[days-][hours:]minutes:seconds[.fraction]` in seconds."""
    match = re.fullmatch(r"(?:(\d{1,11})-)?(?:(\d{1,11}):)?(\d{1,11}):(\d{1,11}(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _bytes(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,18}(?:\.\d*)?)([KMGT]?)", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _most(one: _N | None, other: _N | None) -> _N | None:
    known = [each for each in (one, other) if each is not None]
    return max(known, default=None)


def _sum(so_far: Mapping[str, int], text: str) -> dict[str, int]:
    """`allocated/idle/other/total`."""
    values = [_known_count(part.rstrip("K")) * (1000 if part.endswith("K") else 1) for part in text.split("/")]
    names = ("allocated", "idle", "other", "total")
    return {name: so_far.get(name, 0) + value for name, value in zip(names, values, strict=True)}
