"""Where `/proc` hides the processes of others, a cancel ends a job and not the supervisor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

HIDING = """
mount -t proc -o hidepid=1 proc /proc
setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000 &
exec setpriv --regid 1000 --clear-groups --bounding-set=-all --inh-caps=-all "$@" $!
"""
PROGRAM = """
import sys
from pathlib import Path
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.local.site import Site
try:
    Path("/proc", sys.argv[2], "stat").read_text()
except PermissionError:
    pass
else:
    sys.exit("this kernel hides nothing")
site = Site(Path(sys.argv[1]), cgroups=False)
try:
    job_id = site.sh("exec sleep 1000")
    site.until(job_id, JobStatus.RUNNING)
    supervisor = site.pid
    site.backend.cancel(job_id)
    assert site.ended(job_id).status is JobStatus.CANCELLED
    assert site.pid == supervisor
    assert not process_tree.members(job_id, None)
finally:
    site.close()
"""


@pytest.mark.needs("root")
def test_a_cancel_where_proc_hides_the_processes_of_others(tmp_path: Path) -> None:
    argv = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-ec",
        HIDING,
        "sh",
    ]
    argv += [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
