"""The script that a batch scheduler starts, and the log that the scheduler writes about it.

A scheduler may hold two jobs of one name, when it took the first and its answer was lost. So the script first claims
the attempt, and ends without having started anything if another job has claimed it. The same job may start again (an
administrator requeued it); then it removes the exit record of its first start. The script ends by running the job
script of the attempt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from shlex import quote

from ccat_workflow_manager.hpc.attempt.claim import NOT_STARTED, sh_take
from ccat_workflow_manager.hpc.attempt.logs import read_end
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission

_LOG_BYTES = 4096


def render_batch_script(
    members: Sequence[ArrayTask], *, number: str, index: str | None, home: str, own_path: bool = False
) -> str:
    """The text for one job, or for an array of them.

    `number` and `index` are what the shell expands to the number of the job (of the whole array) and its index in it.
    `own_path`: the search path is that of the image that this runs in.
    """
    path = "" if own_path else f"PATH={CLEAN_PATH} "
    if index is None:
        (member,) = members
        choice = f"attempt={quote(member.files.base)}"
    else:
        cases = [f"{each}) attempt={quote(member.files.base)} ;;" for each, member in enumerate(members)]
        choice = "\n".join([f"case {index} in", *cases, f"*) exit {NOT_STARTED} ;;", "esac"])
    claim = sh_take('"$attempt.claim"', again='rm -f -- "$attempt.exit.json" "$attempt.exit.part"')
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager.
export {path}HOME={quote(home)} LANG=C.UTF-8 LC_ALL=C.UTF-8
{choice}
me={number}
{claim}exec /bin/sh "$attempt.sh"
"""


# --- the log of the scheduler ----------------------------------------------------------------------------------------


def scheduler_log(submission: Submission) -> str:
    """The path for the scheduler's own output: a file, or for an array a directory of files, one for each index.

    It lies beside the logs of the command; for an array, in the directory of its first attempt.
    """
    first = submission.members[0].files
    if submission.array:
        return os.path.join(first.directory, f"{submission.name}.logs")
    return os.path.join(first.logs, "scheduler.log")


def read_scheduler_log(submission: Submission, index: int) -> str:
    """The end of what the scheduler has written about one job. Empty if it cannot be read."""
    path = scheduler_log(submission)
    with suppress(OSError):
        path = os.path.join(path, str(index)) if submission.array else path
        return read_end(path, root=submission.members[0].files.directory, limit=_LOG_BYTES)
    return ""
