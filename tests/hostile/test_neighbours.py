"""Other users of the machine, and programs of its containers, cannot use the API of a user."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager import local_api
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.local_api import SECRET_FILE, ensure_secret, listening_socket, secret_for
from ccat_workflow_manager.settings import load_settings
from tests.cli.commands import answer
from tests.support.fixtures_service import Service, ServiceMaker, sh, variables

NOBODY = 65534
PLAIN = {"PATH": os.defpath}
"""The environment of a process that sees nothing of this user's directories."""


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which this user listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


CALL = """
import json, sys, urllib.error, urllib.request
url, secret = sys.argv[1:]
body = json.dumps({"spec": {"name": "x", "steps": [{"name": "s", "command": ["id"]}]}}).encode()
headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {})}
try:
    print(urllib.request.urlopen(urllib.request.Request(url, body, headers)).status)
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")
def test_a_port_is_no_door_for_another_user(service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}/api/v1/runs"
    file = service.data_dir / SECRET_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def call(secret: str, user: int) -> str:
        command = ["python3", "-I", "-c", CALL, url, secret]
        return subprocess.run(command, user=user, env=PLAIN, capture_output=True, text=True, check=True).stdout.strip()

    assert [call("", NOBODY), call("x", NOBODY), call("", os.geteuid())] == ["401", "401", "202"]
    assert call(file.read_text().strip(), NOBODY) == "202"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")
def test_a_caller_that_has_hung_up_is_nobody(service: Service) -> None:
    """The kernel gives the socket of a process that has closed it to root."""
    body = b'{"spec": {"name": "hung-up", "steps": [{"name": "s", "command": ["true"]}]}}'
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    script = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "s.sendall(sys.argv[2].encode()); s.close()"
    )
    text = f"POST /api/v1/runs HTTP/1.1\r\n{headers}\r\n\r\n{body.decode()}"
    for _ in range(20):
        subprocess.run(["python3", "-I", "-c", script, str(service.port), text], user=NOBODY, env=PLAIN, check=True)
    assert service.call("GET", "/runs?pipeline=hung-up")["items"] == []
    # The same request of this user, who does not hang up, is accepted.
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(text.encode())
        assert b" 202 " in connection.recv(1000).partition(b"\r\n")[0]


def test_a_service_on_a_socket(make_service: ServiceMaker, tmp_path: Path) -> None:
    path = tmp_path / "private" / "api.sock"
    service = make_service(API_SOCKET=str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    run = service.submit(sh("true"))
    assert service.wait(run)["status"] == "COMPLETED"
    for env in (variables(API_SOCKET=str(path)), {"CCAT_WM_URL": f"unix:{path}"}):
        assert answer("run", "show", run, env=env)["id"] == run


def test_managers_share_one_secret(tmp_path: Path) -> None:
    first = ensure_secret(tmp_path)
    assert first.startswith("ccatwm_local_")
    assert ensure_secret(tmp_path) == first
    assert [each.name for each in tmp_path.iterdir()] == [SECRET_FILE]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_secret_that_others_can_read_is_none(tmp_path: Path, port: int, mode: int) -> None:
    ensure_secret(tmp_path)
    (tmp_path / SECRET_FILE).chmod(mode)
    with pytest.raises(ConfigurationError, match="0600"):
        ensure_secret(tmp_path)
    assert secret_for("127.0.0.1", port, tmp_path) == ""


def test_the_secret_is_sent_to_this_machine_only(tmp_path: Path, port: int) -> None:
    secret = ensure_secret(tmp_path)
    assert secret_for("localhost", port, tmp_path) == secret
    assert secret_for("wm.example.org", port, tmp_path) == ""
    assert secret_for("localhost", port, tmp_path / "other") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as another user")
def test_the_secret_is_not_sent_to_another_user(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        ["python3", "-c", script], user=NOBODY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as thief:
        assert thief.stdout is not None
        taken = int(thief.stdout.readline())
        assert secret_for("127.0.0.1", taken, tmp_path) == ""
        thief.communicate("\n")


def test_a_socket_needs_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="0700"):
        listening_socket(tmp_path / "open" / "api.sock")
    path = tmp_path / "private" / "api.sock"
    for _ in range(2):  # the second time over the file that the first has left
        with listening_socket(path):
            assert local_api.accepts(path)
            with pytest.raises(ConfigurationError, match="another service"):
                listening_socket(path)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        listening_socket(tmp_path / "private" / ("a" * 200))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "wm.example.org"])
def test_no_access_off_loopback_without_authentication(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ("localdev", "production"):
        monkeypatch.setenv("ENV_FOR_DYNACONF", environment)
        with pytest.raises(ConfigurationError) as refusal:
            load_settings({"API_HOST": host, "AUTH_REQUIRED": "false"})
        named = {fault.path.removeprefix("CCAT_WORKFLOW_MANAGER_") for fault in refusal.value.faults}
        assert "API_HOST" in named
