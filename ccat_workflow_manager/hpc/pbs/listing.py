"""Parses the output of PBS's commands. Pure text; a ValueError means that it cannot be parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.hpc.pbs.script import Dialect

CLOCK = {"TZ": "UTC0"}
"""Environment for the commands below: they print times as text without a zone, in that of their environment."""

NUMBER = r"\d{1,12}(?:\[\d*\])?(?:\.[A-Za-z0-9.-]{1,253})?"
"""`123.server`, in an array `123[4].server`; the wrappers around Slurm print `123`."""

_HEADING = re.compile(r"(Job Id|Queue):\s*(\S+)\s*")
_ATTRIBUTE = re.compile(r"\s+([A-Za-z_][\w.-]*) = ?(.*)")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_MOST_DIGITS = 11
_YES = ("True", "yes")
_COUNTS = re.compile(r"(\w+):(\d+)")


@dataclass(frozen=True, slots=True)
class Seen:
    """One job according to the server."""

    state: str
    """One letter."""
    name: str = ""
    substate: int | None = None
    exit_status: int | None = None
    comment: str = ""
    queue: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    changed_at: datetime | None = None
    """For a job that is over: when it ended."""
    limit_seconds: float | None = None
    used_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue according to the server."""

    name: str
    enabled: bool
    started: bool
    jobs: int
    limit: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Jobs by the name of their state, in small letters."""

    @property
    def most_hours(self) -> float | None:
        seconds = _duration(self.limit or None)
        return None if seconds is None else seconds / 3600


def parse_version(text: str) -> Dialect:
    """The family, from `qstat --version`: OpenPBS calls it `pbs_version`."""
    return Dialect.OPENPBS if "pbs_version" in text else Dialect.TORQUE


def parse_number(text: str) -> str:
    """`qsub`: the id of the job."""
    lines = text.split()
    number = lines[-1] if lines else ""
    if not re.fullmatch(NUMBER, number):
        raise ValueError("it has no job id")
    return number


def parse_numbers(text: str) -> list[str]:
    """`qselect`: ids, oldest first. A task of an array has the name of the array."""
    return sorted((parse_number(line) for line in text.splitlines() if line.strip()), key=sequence)


def sequence(number: str) -> int:
    """The number within an id."""
    return int(re.split(r"[.\[]", number, maxsplit=1)[0])


def parse_json(text: str) -> dict[str, Seen]:
    """`qstat -f -F json`. Without any job there may be no text at all."""
    if not text.strip():
        return {}
    try:
        answer = json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    jobs = answer.get("Jobs", {}) if isinstance(answer, dict) and "pbs_version" in answer else None
    if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
        raise ValueError("no list of jobs")
    return {number: _seen(dict(_flat("", job))) for number, job in jobs.items()}


def parse_text(text: str) -> dict[str, Seen]:
    """`qstat -f`."""
    return {number: _seen(attributes) for number, attributes in _blocks(text, "Job Id")}


def parse_queues(text: str) -> list[Queue]:
    """`qstat -Q -f`."""
    return [
        Queue(
            name=name,
            enabled=found.get("enabled") in _YES,
            started=found.get("started") in _YES,
            jobs=int(found.get("total_jobs") or 0),
            limit=found.get("resources_max.walltime", ""),
            counts={state.lower(): int(count) for state, count in _COUNTS.findall(found.get("state_count", ""))},
        )
        for name, found in _blocks(text, "Queue")
    ]


# --- blocks of attributes --------------------------------------------------------------------------------------------


def _blocks(text: str, heading: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and attributes of each block; the names of attributes in small letters, in which the families differ."""
    name, attributes, last = "", dict[str, str](), ""
    for line in text.splitlines():
        if found := _HEADING.fullmatch(line):
            if found[1] != heading:
                raise ValueError(f"{heading} expected in {line[:200]!r}")
            if name:
                yield name, attributes
            name, attributes, last = found[2], {}, ""
        elif not line.strip():
            continue
        elif name and not (_folded(line) and last) and (found := _ATTRIBUTE.fullmatch(line)):
            last = found[1].lower()
            attributes[last] = found[2]
        elif name and last:
            # Long values are folded; some contain line breaks of their own.
            attributes[last] += line.removeprefix("\t")
        else:
            raise ValueError(f"no attribute in {line[:200]!r}")
    if name:
        yield name, attributes


def _folded(line: str) -> bool:
    """Whether a line goes on with the value before it. (A wrapper around Slurm begins its attributes with a tab.)"""
    return line.startswith("\t") and not re.match(r"\t[A-Za-z_][\w.]* = ", line)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested objects as the text mode shows them: `resources_used.walltime`."""
    for key, inner in value.items():
        name = f"{prefix}{key}".lower()
        if isinstance(inner, dict):
            yield from _flat(f"{name}.", inner)
        else:
            yield name, str(inner)


def _seen(attributes: Mapping[str, str]) -> Seen:
    state = attributes.get("job_state", "").strip()
    if not state:
        raise ValueError("a job without a state")
    get = attributes.get
    return Seen(
        state=state,
        name=get("job_name", ""),
        substate=_whole(get("substate")),
        exit_status=_whole(get("exit_status")),
        comment=get("comment", "").strip(),
        queue=get("queue", ""),
        submitted_at=_time(get("qtime") or get("ctime")),
        started_at=_time(get("stime") or get("start_time")),
        changed_at=_time(get("comp_time") or get("obittime") or get("mtime")),
        limit_seconds=_duration(get("resource_list.walltime")),
        used_seconds=_duration(get("resources_used.walltime")),
        cpu_seconds=_duration(get("resources_used.cput")),
        memory_bytes=_bytes(get("resources_used.mem")),
        node=_node(get("exec_host")),
    )


def _whole(text: str | None) -> int | None:
    if text is None or not text.strip():
        return None
    return int(text)


def _time(text: str | None) -> datetime | None:
    """`Sat Nov 21 08:59:27 2026`; there are versions that print seconds since the epoch."""
    if text is None:
        return None
    if text.isdecimal() and len(text) <= _MOST_DIGITS:
        return datetime.fromtimestamp(int(text), UTC)
    try:
        return datetime.strptime(text.strip(), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return None


def _duration(text: str | None) -> float | None:
    """`hours:minutes:seconds`, or seconds."""
    match = re.fullmatch(r"(?:(?:(\d{1,11}):)?(\d{1,11}):)?(\d{1,11})(?:\.\d+)?", (text or "").strip())
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float((hours * 60 + minutes) * 60 + seconds)


def _bytes(text: str | None) -> int | None:
    match = re.fullmatch(r"(\d{1,18})([kmgt]?)b", (text or "").strip().lower())
    return int(match[1]) * _UNITS[match[2]] if match else None


def _node(text: str | None) -> str | None:
    """`node1/0*2+node2/0`: the first."""
    return text.split("+", 1)[0].partition("/")[0] or None if text else None
