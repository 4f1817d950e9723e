"""The script that a pod starts: it claims the attempt, then it is the job script. Pure text.

A job controller starts a second pod for a job whose first pod it cannot see any more, and that one may still run. So a
pod first claims the attempt, on the volume that all pods share. A pod that finds the attempt claimed ends without
having started anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from posixpath import join
from shlex import quote

from ccat_workflow_manager.hpc.attempt.claim import sh_take
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH, render_job_script

POD_VARIABLE = "CCAT_WM_POD"
"""Holds the name of the pod. The command sees neither this nor the next."""
NODE_VARIABLE = "CCAT_WM_NODE"
"""Holds the name of the node, which the host name of a pod does not show."""
POD_DIR = "/workflow/.attempt"
"""The path of `pod_files` in a pod of the step's own image."""
SCRIPT_IN_IMAGE = "/workflow/.attempt.sh"
_OF_THE_CLUSTER = " ".join(
    f"KUBERNETES_{name}"
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTPS", "PORT", "PORT_443_TCP", "PORT_443_TCP_ADDR",
                 "PORT_443_TCP_PORT", "PORT_443_TCP_PROTO")
)  # fmt: skip
"""The address of the API server, which every pod gets, even with `enableServiceLinks: false`."""


def pod_files(files: AttemptFiles) -> AttemptFiles:
    """The claim and the exit record, which the pod writes.

    They have a directory of their own: a program in a pod of the step's own image can replace every file in it, and no
    other file of the attempt.
    """
    return replace(files, base=join(files.base + ".pod", files.job_name))


def render_pod_script(
    command: Sequence[str], *, environment: Mapping[str, str], files: AttemptFiles, native: bool
) -> str:
    """The text of the script, with the paths as the pod sees them. Raises ValueError as `render_job_script` does."""
    files = pod_files(files)
    if native:
        files = AttemptFiles(join(POD_DIR, files.job_name), "/workflow/workspace", "/workflow/logs")
    job = render_job_script(command, environment=environment, cwd=files.workspace, files=files, own_cgroup=True)
    # An image of the step brings its own PATH, as it does with Apptainer.
    path = "" if native else f"PATH={CLEAN_PATH} "
    return f"""\
#!/bin/sh
# Written by ccat-workflow-manager for the pod of one attempt.
export {path}HOME="${{HOME:-/tmp}}" LANG="${{LANG:-C.UTF-8}}" LC_ALL=C.UTF-8
me=${POD_VARIABLE} node=${NODE_VARIABLE} start=
unset {POD_VARIABLE} {NODE_VARIABLE} {_OF_THE_CLUSTER}
{sh_take(quote(files.claim), node="node")}{job.removeprefix("#!/bin/sh").lstrip()}"""
