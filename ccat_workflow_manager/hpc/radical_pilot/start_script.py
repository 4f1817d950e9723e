"""The script that a pilot starts for one job: it claims the attempt, and waits for its keeper. Pure text.

RADICAL-Pilot puts the words of a command into shell scripts of its own without quoting them fully, so it is given
nothing but the path of this script, in a directory of harmless names. What the job really is stands quoted in here.

A pilot that ends kills what it has started, in the middle of anything. So the keeper, and the job script that it runs,
are out of its reach; the keeper sees to an orderly end that is known to be the pilot's doing.
"""

from __future__ import annotations

from math import ceil
from shlex import quote

from ccat_workflow_manager.hpc.attempt.process_tree import MARK
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.radical_pilot.store import Ticket

NOT_MINE = 75
"""The exit code of a start that found the attempt claimed by another."""
NOT_VISIBLE = 74
"""The exit code of a start that could not write beside the attempt."""
PATIENCE_SECONDS = 60
"""A job ends itself when it has not heard of its pilot for so long. Shorter than any sensible UNKNOWN_GRACE_SECONDS."""

_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""What tells a program which GPUs it was given; all else that a pilot has in its environment is kept from it."""


def render_start_script(ticket: Ticket, *, home: str, grace_seconds: float) -> str:
    """The text; it is started with the name of the pilot and the directory of the pilot as arguments."""
    times = f"{ticket.limit_seconds} {ceil(grace_seconds)} {PATIENCE_SECONDS}"
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for one job.
PATH={CLEAN_PATH}
attempt={quote(ticket.base)}
pilot=$2
(set -C; echo "$1 $(uname -n)" >"$attempt.claim") 2>/dev/null || {{
  [ -e "$attempt.claim" ] && exit {NOT_MINE}
  echo "cannot write $attempt.claim on $(uname -n)" >&2
  exit {NOT_VISIBLE}
}}
set -- "$attempt" {quote(ticket.job_id)} "$pilot/alive" {times} \\
  PATH="$PATH" HOME={quote(home)} LANG=C.UTF-8 {MARK}={quote(ticket.job_id)}
for name in {" ".join(_DEVICES)}; do
  eval "value=\\${{$name-}}"
  [ -z "$value" ] || set -- "$@" "$name=$value"
done
setsid /usr/bin/env -i PATH="$PATH" /bin/sh "$pilot/keeper.sh" $$ "$@" </dev/null >/dev/null 2>&1 &
wait $!
"""
