"""The script that a pod starts: it claims the attempt, then is the job script. Pure text.

A job controller may start a second pod for a job whose first one it cannot see any more, and that one may still be
running. So a pod first claims the attempt, on the volume that all of them share: one that finds it claimed ends without
having started anything. A cancel claims the attempt as well: what has not begun by then never will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname, join
from shlex import quote

from ccat_workflow_manager.hpc.attempt import files as shared
from ccat_workflow_manager.hpc.attempt.files import WORKSPACE
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH, render_job_script

POD_VARIABLE = "CCAT_WM_POD"
"""Where the pod is told its name; the command does not see it."""
NOT_STARTED = 75
"""The exit code of a pod that found its attempt in the hands of another."""
NO_DIRECTORY = 74
"""The exit code of a pod that cannot write into the directory of its attempt."""
NOBODY = "nobody: "
"""How a claim begins that no pod has made; the rest says why."""
ATTEMPT_DIR = "/workflow/.attempt"
"""Where a pod of the step's own image sees the directory of the attempt."""
_WORKSPACE = "/workflow/workspace"
_LOGS = "/workflow/logs"


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """The files of an attempt, all beginning alike: by that beginning the attempt is known."""

    base: str
    """The directory of the attempt and the name of the job."""
    workspace_name: str = WORKSPACE
    """Of the directory beside them that the job works in."""

    @classmethod
    def of(cls, workspace_dir: str, job_name: str) -> AttemptFiles:
        """Raises ValueError if the name of the job cannot be that of a file."""
        base = shared.AttemptFiles.of(workspace_dir, job_name).base
        return cls(base, basename(workspace_dir.rstrip("/")))

    @classmethod
    def parse(cls, text: str) -> AttemptFiles:
        """What `str` gave. The name of a job has no colon."""
        directory, slash, last = text.rpartition("/")
        name, _, workspace_name = last.partition(":")
        return cls(directory + slash + name, workspace_name or WORKSPACE)

    def __str__(self) -> str:
        return self.base if self.workspace_name == WORKSPACE else f"{self.base}:{self.workspace_name}"

    @property
    def workspace(self) -> str:
        return join(dirname(self.base), self.workspace_name)

    @property
    def files(self) -> shared.AttemptFiles:
        return shared.AttemptFiles.of(self.workspace, basename(self.base))

    @property
    def claim(self) -> str:
        """Holds the name of the pod that runs, or ran, the attempt."""
        return self.base + ".claim"

    @property
    def cancelled(self) -> str:
        """Holds when a cancel was asked for, in seconds."""
        return self.base + ".cancel"


def render_pod_script(
    command: Sequence[str], *, environment: Mapping[str, str], attempt: AttemptFiles, native: bool
) -> str:
    """The text of the script, with the paths as the pod sees them. Raises ValueError as `render_job_script` does."""
    files, cwd, claim = attempt.files, attempt.workspace, attempt.claim
    if native:
        name = basename(attempt.base)
        inside = join(ATTEMPT_DIR, name)
        files = shared.AttemptFiles(inside, _WORKSPACE, _LOGS)
        cwd, claim = _WORKSPACE, inside + ".claim"
    job = render_job_script(command, environment=environment, cwd=cwd, files=files, own_cgroup=True)
    # An image of the step brings its own PATH, as it does with Apptainer.
    path = "" if native else f"PATH={CLEAN_PATH} "
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for the pod of one attempt.
export {path}HOME="${{HOME:-/tmp}}" LANG="${{LANG:-C.UTF-8}}" LC_ALL=C.UTF-8
me=${POD_VARIABLE}
unset {POD_VARIABLE}
(set -C; echo "$me" >{quote(claim)}) 2>/dev/null || {{
  first=
  read -r first 2>/dev/null <{quote(claim)} || {{
    echo "the directory of the attempt cannot be written to" >&2
    exit {NO_DIRECTORY}
  }}
  [ "$first" = "$me" ] || {{ echo "the attempt belongs to $first, not to $me" >&2; exit {NOT_STARTED}; }}
}}
{job.removeprefix("#!/bin/sh").lstrip()}"""
