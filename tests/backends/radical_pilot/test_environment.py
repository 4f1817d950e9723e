"""What the environment of a pilot agent makes RADICAL-Pilot do."""

from __future__ import annotations

import sys
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.hpc.radical_pilot.agent_client import environment
from tests.support.waiting import PATIENCE

START_A_CHANNEL = """
import ipaddress, socket

resolve = socket.getaddrinfo

def numbers_only(host, *arguments, **options):
    ipaddress.ip_address(host)
    print(host)
    return resolve(host, *arguments, **options)

socket.getaddrinfo = numbers_only
socket.getfqdn = socket.gethostbyname = numbers_only

import radical.utils as ru

ru.zmq.Registry(uid="registry", path=".").stop()
"""


def test_a_channel_asks_no_name_server(tmp_path: Path) -> None:
    """A pilot has 10 s for its first three channels, and a name server that does not answer takes longer."""
    (tmp_path / "home").mkdir()
    settings = environment(tmp_path / "home", local=True)
    done = shell.run([sys.executable, "-c", START_A_CHANNEL], timeout=PATIENCE, env=settings, cwd=tmp_path)
    assert done.stdout.split() == ["255.255.255.255"], done.stderr
