"""The job script and the exit record: how a job starts, and how one knows afterwards how it ended.

The script is plain POSIX sh, so it starts in a millisecond and needs nothing on the node. It runs the command with its
output in the log files, waits, and leaves a record, also when nobody is left to watch. Everything it does besides
running the command is built into the shell.

It comes in two kinds. Alone, it publishes the record itself. Supervised, it first claims its attempt by creating the
part of the record, so that a command never runs twice; it leaves the record to its parent, which knows more, and
publishes it only if the parent is gone.

**Signals.** A shell cannot tell `exit 137` from death by signal 9, and neither can a container runtime, which passes
the latter on as the former. So an exit code above 128 whose rest is the number of a signal is taken for that signal,
everywhere and by everybody; a program that really means `exit 137` is rare, and it shows up with both numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from posixpath import join, split
from shlex import quote
from typing import Any

VERSION = 1
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP_VARIABLE = "CCAT_WM_CGROUP"
"""For the supervised script: the file of its control group that it writes a 0 to, which stands for itself."""
WORKSPACE = "workspace"
"""The name of the directory in that of an attempt which its job works in."""
STOPPED_BY = ("cancel", "time_limit", "memory_limit", "log_limit")

_LAST_SIGNAL = 64
_TICKS_PER_SECOND = 100  # what the kernel shows to programs on every architecture that we run on
_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_OF_SERVICE = re.compile(r"ccat-[0-9a-f]{32}-[1-9][0-9]{0,8}", re.ASCII)
"""The names that `lifecycle.models.job_name` makes. Repeated here because this file travels to nodes without it."""
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
_SHELL_OWN = _READ_ONLY | {"_", "ENV", "IFS", "LINENO", "OLDPWD", "OPTARG", "OPTIND", "PS1", "PS2", "PS4", "PWD"}
"""Variables that mean something to a shell, some of them read-only; these take a way around it."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Where the files of one attempt are."""

    script: str
    record: str
    record_part: str
    stdout: str
    stderr: str


def job_files(workspace_dir: str, job_name: str) -> JobFiles:
    """The files of a job: beside its workspace, and its own. Raises ValueError if the name is no file name.

    An attempt of the service has a directory to itself, and its logs are in `logs` there. Workspaces of other jobs may
    lie side by side, or be one and the same: their logs are told apart by the name of the job.
    """
    if not _JOB_NAME.fullmatch(job_name):
        raise ValueError(f"{job_name!r} cannot be the name of a job: letters, digits, '.', '_' and '-' are allowed")
    attempt, workspace = split(workspace_dir.rstrip("/"))
    base = join(attempt, job_name)
    own_directory = workspace == WORKSPACE and _OF_SERVICE.fullmatch(job_name) is not None
    logs = join(attempt, "logs") if own_directory else base + ".logs"
    return JobFiles(
        script=base + ".sh",
        record=base + ".exit.json",
        record_part=base + ".exit.part",
        stdout=join(logs, "stdout.log"),
        stderr=join(logs, "stderr.log"),
    )


# --- the script ------------------------------------------------------------------------------------------------------


def render_job_script(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    files: JobFiles,
    supervised: bool = False,
    own_cgroup: bool = False,
) -> str:
    """The text of the script; it is to be written as UTF-8 with `surrogateescape`.

    `own_cgroup`: a script alone runs in a control group that is the job's own, as in a pod, and so can tell what the
    kernel counts there: the peak of memory, and whether anything was killed for it. A group without a limit of its own
    is not taken for the job's.

    Raises ValueError for what no program can be given: no command, a NUL, a variable without a name.
    """
    _check(command, environment, cwd)
    job_name = files.record.rpartition("/")[2].removesuffix(".exit.json")
    quoted = _Quoted(
        head=quote(f'{{"version":{VERSION},"job_name":{json.dumps(job_name)},"pid":'),
        part=quote(files.record_part),
        record=quote(files.record),
        streams=f"</dev/null >{quote(files.stdout)} 2>{quote(files.stderr)}",
        cwd=quote(cwd),
        run=_invocation(command, environment),
    )
    return _supervised(quoted) if supervised else _alone(quoted, _MEMORY if own_cgroup else _NO_MEMORY)


@dataclass(frozen=True, slots=True)
class _Quoted:
    """What is put into a script, ready for the shell."""

    head: str
    part: str
    record: str
    streams: str
    cwd: str
    run: str


_MEASURE = """\
  read -r ended _ </proc/uptime
  read -r stat </proc/$$/stat
  read -r host </proc/sys/kernel/hostname
  set -f
  set -- ${stat##*) }
  ticks=$((${14} + ${15}))"""
"""The uptime at the end, and the CPU time of the children that were waited for (two columns of `stat`)."""


_HUSH = "exec 3>&2 2>/dev/null"
_LOUD = "2>&3 3>&-"
_SPEAK = "exec 2>&3 3>&-"
"""Of a command that dies of a signal some shells say so, some of the time; the log is the command's alone. For a plain
command a shell moves its own streams along, so that one is put into parentheses."""


def _supervised(quoted: _Quoted) -> str:
    # The trap lets the script outlive a signal that is meant for its command; commands start without it.
    # A parent that is dead but not yet waited for has no memory, which `kill -0` would not notice.
    # Once `exec` has moved the streams, a complaint of the shell itself (no such program) lands in the log of the job.
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for one attempt, to be started by its supervisor.
parent=$PPID
[ -z "${CGROUP_VARIABLE}" ] || echo 0 >"${CGROUP_VARIABLE}"
unset {CGROUP_VARIABLE}
read -r began _ </proc/uptime
[ ! -e {quoted.record} ] || exit 1
set -C
printf '%s%s,"began":%s' {quoted.head} $$ "$began" >{quoted.part} || exit
set +C
exec {quoted.streams}
trap : HUP INT TERM
status=126
cd -- {quoted.cwd} && {{
{_HUSH}
( {quoted.run} ) {_LOUD}
status=$?
{_SPEAK}
}}
if read -r size _ 2>/dev/null </proc/"$parent"/statm && [ "$size" != 0 ]; then
  printf ',"exit_code":%s}}\\n' "$status" >>{quoted.part}
else
{_MEASURE}
  printf ',"exit_code":%s,"ended":%s,"ticks":%s,"host":"%s"}}\\n' "$status" "$ended" "$ticks" "$host" >>{quoted.part}
  PATH={CLEAN_PATH} mv -f -- {quoted.part} {quoted.record}
fi
exit "$status"
"""


_NO_MEMORY = "memory="

# In a pod the group is mounted as the root of its hierarchy, whatever path the kernel tells; elsewhere the path counts.
# A limit of 16 digits or more is none. Both hierarchies may be there; the one that has the controller of memory counts.
_MEMORY = """\
memory=
while IFS=: read -r _ controllers path; do
  case ",$controllers," in
  *,memory,*) set -- memory.limit_in_bytes memory.max_usage_in_bytes memory.oom_control cgroup1 /memory ;;
  ,,) set -- memory.max memory.peak memory.events cgroup2 '' ;;
  *) continue ;;
  esac
  for group in "/sys/fs/cgroup$5$path" "/sys/fs/cgroup$5"; do
    read -r limit 2>/dev/null <"$group/$1" || continue
    case $limit in max | ????????????????*) continue ;; esac
    read -r peak 2>/dev/null <"$group/$2" && memory=",\\"peak_memory_bytes\\":$peak,\\"memory_source\\":\\"$4\\""
    while read -r word count; do
      [ "$word" != oom_kill ] || [ "$count" = 0 ] || memory="$memory,\\"oom_killed\\":true"
    done 2>/dev/null <"$group/$3"
    break 2
  done
done </proc/self/cgroup"""


def _alone(quoted: _Quoted, memory: str) -> str:
    # Whoever stops a job by signalling this script alone means its command, so the signal is passed on.
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for one attempt: runs its command and leaves the exit record.
read -r began _ </proc/uptime
now() {{ PATH={CLEAN_PATH} date -u +%Y-%m-%dT%H:%M:%SZ; }}
started=$(now)
printf '%s%s,"began":%s' {quoted.head} $$ "$began" >{quoted.part} || exit
exec {quoted.streams}
status=126
cd -- {quoted.cwd} && {{
{_HUSH}
{quoted.run} {_LOUD} &
child=$!
trap 'asked=1; kill -TERM "$child" 2>/dev/null' HUP INT TERM
while asked=; do
  wait "$child"
  status=$?
  [ "$asked" ] || break
done
{_SPEAK}
}}
{memory}
{_MEASURE}
printf ',"exit_code":%s,"ended":%s,"ticks":%s,"host":"%s","started_at":"%s","finished_at":"%s"%s}}\\n' \\
  "$status" "$ended" "$ticks" "$host" "$started" "$(now)" "$memory" >>{quoted.part}
PATH={CLEAN_PATH} mv -f -- {quoted.part} {quoted.record}
exit "$status"
"""


def _check(command: Sequence[str], environment: Mapping[str, str], cwd: str) -> None:
    if not command or not command[0]:
        raise ValueError("there is no command")
    if command[0].startswith("-"):
        raise ValueError(f"the command {command[0]!r} begins with a dash")
    for name in environment:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
    for text in (*command, *environment, *environment.values(), cwd):
        if "\0" in text:
            raise ValueError(f"{text!r} contains a NUL, which no program can be given")


def _invocation(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command with its environment, so that no part of either means anything to the shell."""
    special = {name: value for name, value in environment.items() if not _plain(name)}
    assignments = [f"{name}={quote(value)}" for name, value in environment.items() if _plain(name)]
    words = [quote(word) for word in command]
    if "/" in command[0] and not special:
        # Such a word is never a builtin; assignments in front hold for this one program. Cheaper than a subshell.
        return " ".join([*assignments, *words])
    if special:
        words = ["/usr/bin/env", "--", *(quote(f"{name}={value}") for name, value in special.items()), *words]
    exports = f"export {' '.join(assignments)}; " if assignments else ""
    return f"({exports}exec {' '.join(words)})"


def _plain(name: str) -> bool:
    return bool(_SHELL_NAME.fullmatch(name)) and name not in _SHELL_OWN


# --- the record ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a job ended. What nobody could measure is None; without an exit code the command was never started."""

    job_name: str
    exit_code: int | None
    signal: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wall_time_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    oom_killed: bool = False
    stopped_by: str | None = None
    """`cancel`, `time_limit`, `memory_limit` or `log_limit` if the backend itself stopped the job."""
    stopped_text: str | None = None
    memory_source: str | None = None
    """Who measured the peak: `cgroup2`, `cgroup1`, or `wait4` (the largest single process)."""
    host: str | None = None
    left_text: str | None = None
    """What of the job is still there, because nothing ends it."""
    version: int = VERSION

    def to_json(self) -> str:
        return json.dumps(
            {
                "version": self.version,
                "job_name": self.job_name,
                "exit_code": self.exit_code,
                "signal": self.signal,
                "started_at": _format_time(self.started_at),
                "finished_at": _format_time(self.finished_at),
                "wall_time_seconds": self.wall_time_seconds,
                "cpu_seconds": self.cpu_seconds,
                "peak_memory_bytes": self.peak_memory_bytes,
                "oom_killed": self.oom_killed,
                "stopped_by": self.stopped_by,
                "stopped_text": self.stopped_text,
                "memory_source": self.memory_source,
                "host": self.host,
                "left_text": self.left_text,
            }
        )


def signal_in(exit_code: int | None) -> int | None:
    """The signal that an exit code of a shell or a container runtime speaks of."""
    if exit_code is None or not 128 < exit_code <= 128 + _LAST_SIGNAL:
        return None
    return exit_code - 128


def parse_exit_record(text: str) -> ExitRecord:
    """Read what a job script or a supervisor wrote. Raises ValueError if it is cut short or something else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an exit record: {error}") from None
    if not isinstance(data, dict):
        raise ValueError("not an exit record: not a JSON object")
    if data.get("version") != VERSION:
        raise ValueError(f"an exit record of version {data.get('version')!r}, where {VERSION} is known")
    if "exit_code" not in data:
        raise ValueError("the exit record has no exit code")
    exit_code = _whole(data, "exit_code")
    stopped_by = _text(data, "stopped_by")
    if stopped_by is not None and stopped_by not in STOPPED_BY:
        raise ValueError(f"stopped_by is {stopped_by!r}")
    oom_killed = data.get("oom_killed", False)
    if not isinstance(oom_killed, bool):
        raise ValueError(f"oom_killed is {oom_killed!r}")
    job_name = _text(data, "job_name")
    if job_name is None:
        raise ValueError("the exit record has no job name")
    return ExitRecord(
        job_name=job_name,
        exit_code=exit_code,
        signal=_whole(data, "signal") if data.get("signal") is not None else signal_in(exit_code),
        started_at=_time(data, "started_at"),
        finished_at=_time(data, "finished_at"),
        wall_time_seconds=_wall_time(data),
        cpu_seconds=_cpu_seconds(data),
        peak_memory_bytes=_whole(data, "peak_memory_bytes"),
        oom_killed=oom_killed,
        stopped_by=stopped_by,
        stopped_text=_text(data, "stopped_text"),
        memory_source=_text(data, "memory_source"),
        host=_text(data, "host"),
        left_text=_text(data, "left_text"),
    )


def _wall_time(data: dict[str, Any]) -> float | None:
    """As told, or, in the record of a script alone, from the machine's uptime at the start and at the end."""
    told = _number(data, "wall_time_seconds")
    began, ended = _number(data, "began"), _number(data, "ended")
    if told is None and began is not None and ended is not None:
        return round(max(0.0, ended - began), 2)
    return told


def _cpu_seconds(data: dict[str, Any]) -> float | None:
    told, ticks = _number(data, "cpu_seconds"), _whole(data, "ticks")
    return ticks / _TICKS_PER_SECOND if told is None and ticks is not None else told


def _number(data: dict[str, Any], key: str) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}")
    return float(value)


def _whole(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r}")
    return value


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}")
    return value


def _time(data: dict[str, Any], key: str) -> datetime | None:
    text = _text(data, key)
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{key} has no time zone: {text!r}")
    return time.astimezone(UTC)


def _format_time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")
