"""The page for operators: what it says of the journal, tried with a real journald in namespaces of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.test_docs import blocks
from tests.docs.test_installation import PAGE, SEARCH_PATH
from tests.support.waiting import PATIENCE

_RESTART = "systemctl restart systemd-journald"
_UNITS = ("ccat-wm-manager", "ccat-wm-worker@1", "another")

_WRITER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as journal:
    journal.connect("/run/systemd/journal/stdout")
    unit = sys.argv[1]
    journal.sendall(f"python3\\n{unit}.service\\n6\\n0\\n0\\n0\\n0\\nsaid by {unit}\\n".encode())
"""
"""What systemd does for a unit: it opens the stream to the journal, and says whose it is.

The journal believes that of a process in the root of the control groups alone, or of one that has ended: all processes
of this world are in the root of their own namespace.
"""

_WORLD = """
mount -t proc proc /proc
for each in /run /var/log /etc/systemd; do mount -t tmpfs none "$each"; done
mkdir -p /run/systemd/journal /var/log/journal /etc/systemd/journald.conf.d
touch /run/systemd/journal/flushed
printf '[Journal]\\nReadKMsg=no\\nAudit=no\\nSyncIntervalSec=0\\n' >/etc/systemd/journald.conf.d/apart.conf
started() {
  /lib/systemd/systemd-journald &
  until [ -S /run/systemd/journal/stdout ]; do kill -0 $!; done
  for unit in $UNITS; do "$PYTHON" -c "$WRITER" "$unit"; done
  until [ "$(journalctl --output=cat | grep -c '^said by')" = 3 ]; do kill -0 $!; done
}
"""


@pytest.mark.needs("root", "systemd-analyze")
def test_the_journal_keeps_its_limit_and_shows_the_units_of_the_service() -> None:
    [block] = [each for each in blocks(PAGE, "sh") if _RESTART in each]
    script = _WORLD + block.replace(_RESTART, "started") + "journalctl --output=cat _COMM=systemd-journal\n"
    apart = ("--mount", "--pid", "--net", "--ipc", "--cgroup", "--fork", "--kill-child")
    argv = ["unshare", *apart, "sh", "-euc", script]
    environment = {"PATH": SEARCH_PATH, "UNITS": " ".join(_UNITS), "PYTHON": sys.executable, "WRITER": _WRITER}
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [unit for unit in _UNITS if f"said by {unit}" in done.stdout] == ["ccat-wm-manager", "ccat-wm-worker@1"]
    assert "max 2.0G" in done.stdout, done.stdout + done.stderr
