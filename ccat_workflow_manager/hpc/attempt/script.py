"""The job script: how a job starts, and how its end gets on record.

The script is plain POSIX sh, so it starts in a millisecond and needs nothing on the node. It runs the command with its
output in the log files, waits, and leaves a record, also when no process watches it. Everything it does besides running
the command is built into the shell.

It comes in two kinds. Alone, it publishes the record itself. Supervised, it first claims its attempt by creating the
part of the record, so that a command never runs twice; it leaves the record to its parent, which knows more, and
publishes it only if the parent is gone.

**Signals.** A shell cannot distinguish `exit 137` from death by signal 9, and neither can a container runtime, which
passes the latter on as the former. So every reader takes an exit code above 128 whose rest is the number of a signal
for that signal. A program that really means `exit 137` is rare, and its record shows both numbers.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from shlex import quote

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles, write_new
from ccat_workflow_manager.hpc.attempt.record import VERSION

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP_VARIABLE = "CCAT_WM_CGROUP"
"""For the supervised script: the file of its control group that it writes a 0 to, which stands for itself."""
PARENT_VARIABLE = "CCAT_WM_PARENT"
"""For the supervised script: who starts it. A parent that dies before the shell runs is not what `PPID` names."""

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
_SHELL_OWN = _READ_ONLY | {"_", "ENV", "IFS", "LINENO", "OLDPWD", "OPTARG", "OPTIND", "PS1", "PS2", "PS4", "PWD"}
"""Variables that mean something to a shell, some of them read-only; these take a way around it."""


def render_job_script(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    files: AttemptFiles,
    supervised: bool = False,
    own_cgroup: bool = False,
    first: str = "",
    secrets: Collection[str] = (),
) -> str:
    """The text of the script, to be written with `write_script`.

    `own_cgroup`: a script alone runs in a control group that is the job's own, as in a pod. Then it records what the
    kernel counts there: the peak of memory, and whether a process was killed for it. A group without a limit of its own
    is not taken for the job's. `first` is what a script alone runs before everything else.

    `secrets` are variables whose values are in the file of `write_secrets`. A supervised script removes it when it has
    read it. A script alone, which its scheduler may start again, removes it at the end.

    Raises ValueError for what no program can get: no command, a NUL, a variable without a name.
    """
    _check(command, environment, cwd)
    if wrong := [name for name in secrets if not _plain(name)]:
        raise ValueError(f"the variable {wrong[0]} cannot hold a secret: it has a meaning for the shell")
    remove = f"PATH={CLEAN_PATH} rm -f -- {quote(files.secrets)}\n" if secrets else ""
    quoted = _Quoted(
        head=quote(f'{{"version":{VERSION},"job_name":{json.dumps(files.job_name)},"pid":'),
        part=quote(files.record_part),
        record=quote(files.record),
        stdout=quote(files.stdout),
        stderr=quote(files.stderr),
        cwd=quote(cwd),
        run=_invocation(command, environment, _load(files, remove if supervised else "") if secrets else ""),
        remove=remove,
    )
    return _supervised(quoted) if supervised else _alone(quoted, _MEMORY if own_cgroup else _NO_MEMORY, first)


@dataclass(frozen=True, slots=True)
class _Quoted:
    """The variable parts of a script, quoted for the shell."""

    head: str
    part: str
    record: str
    stdout: str
    stderr: str
    cwd: str
    run: str
    remove: str
    """Removes the secrets of a script alone."""

    @property
    def streams(self) -> str:
        return f"</dev/null >{self.stdout} 2>{self.stderr}"


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
"""Some shells report, some of the time, that a command died of a signal; the log is the command's alone. For a plain
command a shell moves its own streams along, so that one is put into parentheses."""


def _supervised(quoted: _Quoted) -> str:
    # The trap lets the script outlive a signal that is meant for its command; commands start without it.
    # A parent that is dead but not yet reaped has no memory, which `kill -0` would not notice.
    # Once `exec` has moved the streams, a complaint of the shell itself (no such program) lands in the log of the job.
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for one attempt, to be started by its supervisor.
parent=${{{PARENT_VARIABLE}:-$PPID}}
[ -z "${CGROUP_VARIABLE}" ] || echo 0 >"${CGROUP_VARIABLE}"
unset {CGROUP_VARIABLE} {PARENT_VARIABLE}
read -r began _ </proc/uptime
[ ! -e {quoted.record} ] || exit 1
set -C
printf '%s%s,"began":%s' {quoted.head} $$ "$began" >{quoted.part} || exit
exec {quoted.streams} || exit
set +C
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

# In a pod the group is mounted as the root of its hierarchy, and the path in /proc does not exist; elsewhere it does.
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


def _alone(quoted: _Quoted, memory: str, first: str) -> str:
    # An earlier life of the job may have replaced its logs by links: they are removed, and `set -C` follows none.
    # A scheduler that signals this script alone means its command, so the signal is passed on. The trap is set before
    # the command starts: a signal in between would end the script without a record.
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for one attempt: runs its command and leaves the exit record.
{first}read -r began _ </proc/uptime
now() {{ PATH={CLEAN_PATH} date -u +%Y-%m-%dT%H:%M:%SZ; }}
started=$(now)
printf '%s%s,"began":%s' {quoted.head} $$ "$began" >{quoted.part} || exit
for log in {quoted.stdout} {quoted.stderr}; do
  if [ -e "$log" ] || [ -h "$log" ]; then PATH={CLEAN_PATH} rm -f -- "$log"; fi
done
set -C
exec {quoted.streams} || exit
set +C
status=126
cd -- {quoted.cwd} && {{
{_HUSH}
asked= child=
trap 'asked=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' HUP INT TERM
{quoted.run} {_LOUD} &
child=$!
[ -z "$asked" ] || kill -TERM "$child" 2>/dev/null
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
{quoted.remove}PATH={CLEAN_PATH} mv -f -- {quoted.part} {quoted.record}
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
            raise ValueError(f"{text!r} contains a NUL, which no program can get")


def _load(files: AttemptFiles, then: str) -> str:
    """Reads the secrets into the environment of a subshell."""
    gone = f"the secrets of the job are gone: {files.secrets}"
    return f"[ -r {quote(files.secrets)} ] || {{ echo {quote(gone)} >&2; exit 126; }}\n. {quote(files.secrets)}\n{then}"


def _invocation(command: Sequence[str], environment: Mapping[str, str], load: str) -> str:
    """The command with its environment, so that no part of either means anything to the shell."""
    special = {name: value for name, value in environment.items() if not _plain(name)}
    assignments = [f"{name}={quote(value)}" for name, value in environment.items() if _plain(name)]
    words = [quote(word) for word in command]
    if "/" in command[0] and not special and not load:
        # Such a word is never a builtin; assignments in front hold for this one program. Cheaper than a subshell.
        return " ".join([*assignments, *words])
    if special:
        words = ["/usr/bin/env", "--", *(quote(f"{name}={value}") for name, value in special.items()), *words]
    exports = f"export {' '.join(assignments)}; " if assignments else ""
    return f"({load}{exports}exec {' '.join(words)})"


def _plain(name: str) -> bool:
    return bool(_SHELL_NAME.fullmatch(name)) and name not in _SHELL_OWN


def write_script(files: AttemptFiles, script: str) -> None:
    """Write the script where no shell sees half of it, and make the directory of the logs. Raises OSError."""
    for directory in (files.directory, files.logs):
        if not os.path.isdir(directory):
            os.makedirs(directory, exist_ok=True)
    write_new(files.script, script.encode("utf-8", "surrogateescape"))


def write_secrets(files: AttemptFiles, values: Mapping[str, str]) -> None:
    """Write the file that a script with `secrets` reads; only its owner can. Raises OSError."""
    os.makedirs(files.directory, exist_ok=True)
    text = "".join(f"export {name}={quote(value)}\n" for name, value in values.items())
    write_new(files.secrets, text.encode("utf-8", "surrogateescape"))


def remove_secrets(files: AttemptFiles) -> None:
    """Remove what `write_secrets` has written, if it is still there. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(files.secrets)


def job_variables(job_name: str) -> dict[str, str]:
    """The variables of a script that this process starts: the mark of its job, and its parent."""
    return {process_tree.MARK: job_name, PARENT_VARIABLE: str(os.getpid())}


def clean_environment() -> dict[str, str]:
    """The variables of a job besides its own; no job sees the environment of the process that starts it."""
    return {"PATH": CLEAN_PATH, "HOME": pwd.getpwuid(os.geteuid()).pw_dir, "LANG": "C.UTF-8"}
