"""The script that a batch scheduler starts, and the log that the scheduler writes about it.

A scheduler may have two jobs of one name, when it took the first and its answer was lost. So the script first claims
the attempt, and ends without having started anything if another job has claimed it.

A scheduler may also start the same job again. An administrator has requeued it: then it runs again, without the exit
record and the logs of its first start. Or the scheduler has lost its last seconds in a crash and does not know of the
first start: then the script runs nothing. It ends as the first start did. If that has left no exit record, it ends
with NOT_STARTED: Slurm kills what it has forgotten once the node answers. Each later start leaves a line in `starts`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from shlex import quote

from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, sh_take
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.logs import read_end
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, read_small
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission

KILLED_BY_SCHEDULER = (137, 143)
"""The exit codes of a command that a requeue has ended: SIGKILL, SIGTERM."""
NO_WORDS_FOR_STARTS = '""'
RAN_AGAIN = "ran the command again"
"""How the line of a start ends that was a requeue."""

_LOG_BYTES = 4096

# `$start` is "JOB RESTARTS" where the scheduler has words for it: only a start with more restarts of the same job is a
# requeue, and runs the command again. Where it has none, each later start may be one, and runs it again unless the
# command has ended by itself.
_AGAIN = f"""\
  before= code= requeued=
  {{ read -r _; read -r _; read -r _; read -r before; }} 2>/dev/null <"$attempt.claim"
  while read -r job restarts _; do before="$job $restarts"; done 2>/dev/null <"$attempt.starts"
  record=
  read -r record 2>/dev/null <"$attempt.exit.json"
  case $record in *'"exit_code":'[0-9]*) code=${{record##*'"exit_code":'}} code=${{code%%[!0-9]*}} ;; esac
  case $code in {" | ".join(map(str, KILLED_BY_SCHEDULER))}) code= ;; esac
  case $start in
  '') requeued=1 ;;
  "${{before% *}} "*) [ "${{start##* }}" -le "${{before##* }}" ] || requeued=1 code= ;;
  esac
  if [ "$code" ]; then did="ended at once, with the code $code of the first start"
  elif [ "$requeued" ]; then did="{RAN_AGAIN}"
  else code={NOT_STARTED} did="ran nothing: the first start has left no exit record"
  fi
  printf '%s on %s %s\\n' "${{start:-$me -}}" "$host" "$did" >>"$attempt.starts"
  [ ! "$code" ] || exit "$code"
  rm -f -- "$attempt.exit.json" "$attempt.exit.part\""""


def render_batch_script(
    members: Sequence[ArrayTask],
    *,
    number: str,
    index: str | None,
    home: str,
    own_path: bool = False,
    start: str = NO_WORDS_FOR_STARTS,
    node: str = "",
    unset: str = "",
) -> str:
    """The text for one job, or for an array of them.

    `number` and `index` are what the shell expands to the number of the job (of the whole array) and its index in it;
    `start` to the words "JOB RESTARTS", which distinguish the starts of one job. `node` is the variable that
    names the node. `own_path`: the search path is that of the image that this runs in. `unset` names variables that the
    command must not see.
    """
    path = "" if own_path else f"PATH={CLEAN_PATH} "
    if index is None:
        (member,) = members
        choice = f"attempt={quote(member.files.base)}"
    else:
        cases = [f"{each}) attempt={quote(member.files.base)} ;;" for each, member in enumerate(members)]
        choice = "\n".join([f"case {index} in", *cases, f"*) exit {NOT_STARTED} ;;", "esac"])
    hidden = f"unset {unset}\n" if unset else ""
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager.
{hidden}export {path}HOME={quote(home)} LANG=C.UTF-8 LC_ALL=C.UTF-8
{choice}
me={number}
start={start}
{sh_take('"$attempt.claim"', again=_AGAIN, node=node)}exec /bin/sh "$attempt.sh"
"""


def read_starts(files: AttemptFiles) -> list[str]:
    """What each later start of the job has done; empty for a job that was started once. Raises OSError."""
    try:
        found = read_small(files.starts, root=files.directory)
    except UnsafeFile:
        return []
    return [] if found is None else found.text.splitlines()


# --- the log of the scheduler ----------------------------------------------------------------------------------------


def scheduler_log(submission: Submission) -> str:
    """The path for the scheduler's own output: a file, or for an array a directory of files, one for each index.

    It lies in the directory of the (first) attempt, where no container writes: the scheduler follows links.
    """
    first = submission.members[0].files
    if submission.array:
        return os.path.join(first.directory, f"{submission.name}.logs")
    return first.base + ".scheduler.log"


def read_scheduler_log(submission: Submission, index: int) -> str:
    """The end of what the scheduler has written about one job. Empty if it cannot be read."""
    path = scheduler_log(submission)
    with suppress(OSError):
        path = os.path.join(path, str(index)) if submission.array else path
        return read_end(path, root=submission.members[0].files.directory, limit=_LOG_BYTES)
    return ""
