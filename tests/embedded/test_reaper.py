"""A killed test run leaves neither servers nor files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reaper import born
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
KILLED_RUN = """
import os, signal, sys, tempfile
from pathlib import Path
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support.reaper import Reaper
reaper, place = Reaper(), Path(tempfile.mkdtemp(prefix="ccat-wm-tests-"))
reaper.remove(place)
print(place)
for server in (EmbeddedPostgres(place, fsync=False), EmbeddedValkey(place)):
    server.start()
    reaper.watch(server.pid)
    print(server.pid)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.needs("postgresql", "valkey")
def test_servers_and_files_of_a_killed_run_are_removed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    place, *pids = done.stdout.split()
    assert len(pids) == 2
    wait_until(lambda: all(born(int(pid)) == "never" for pid in pids), what="the end of the servers")
    wait_until(lambda: not Path(place).exists(), what="the removal of their files")
