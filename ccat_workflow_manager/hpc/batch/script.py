"""The script that a batch scheduler starts: it finds its attempt and hands over to the job script there. Pure text.

A scheduler may hold two jobs of one name, when it took the first and never said so. So a job first claims its attempt:
one that finds it claimed by another ends without having started anything. The same job may start again (an
administrator requeued it); then what its first life left is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.batch.store import ArrayTask

NOT_STARTED = 75
"""The exit code of a job that found its attempt in the hands of another."""


def claim_file(member: ArrayTask) -> str:
    """Holds the number of the job that runs, or ran, the attempt."""
    return member.files.script.removesuffix(".sh") + ".claim"


def render_batch_script(
    members: Sequence[ArrayTask], *, number: str, index: str | None, home: str, own_path: bool = False
) -> str:
    """The text for one job, or for an array of them.

    `number` and `index` are what the shell expands to the number of the job (of the whole array) and its place in it.
    `own_path`: the search path is that of the image that this runs in.
    """
    path = "" if own_path else f"PATH={CLEAN_PATH} "
    if index is None:
        (member,) = members
        choice = f"attempt={quote(_base(member))}"
    else:
        cases = [f"{place}) attempt={quote(_base(member))} ;;" for place, member in enumerate(members)]
        choice = "\n".join([f"case {index} in", *cases, f"*) exit {NOT_STARTED} ;;", "esac"])
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager.
export {path}HOME={quote(home)} LANG=C.UTF-8 LC_ALL=C.UTF-8
{choice}
me={number}
first=
(set -C; echo "$me" >"$attempt.claim") 2>/dev/null || {{
  read -r first <"$attempt.claim"
  [ "$first" = "$me" ] || {{ echo "the attempt belongs to job ${{first:-?}}, not to $me" >&2; exit {NOT_STARTED}; }}
  rm -f -- "$attempt.exit.json" "$attempt.exit.part"
}}
exec /bin/sh "$attempt.sh"
"""


def _base(member: ArrayTask) -> str:
    return member.files.script.removesuffix(".sh")
