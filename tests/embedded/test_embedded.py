"""The embedded servers: start, adoption, sharing, stop, and recovery after a kill."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey, postgres
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs("postgresql", "valkey")

REPOSITORY = Path(__file__).parents[2]
Servers = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, as sockets need one."""
    path = Path(tempfile.mkdtemp(prefix="ccat-wm-embedded-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server_at(reaper: Reaper) -> Iterator[Servers]:
    """Starts PostgreSQL in a directory and stops it after the test."""
    started: list[EmbeddedPostgres] = []

    def start(path: Path) -> EmbeddedPostgres:
        server = EmbeddedPostgres(path)
        server.start()
        started.append(server)
        assert server.pid is not None
        reaper.watch(server.pid)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def valkey(place: Path, reaper: Reaper) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(place)
    server.start()
    assert server.pid is not None
    reaper.watch(server.pid)
    yield server
    server.stop()


def ask(server: EmbeddedPostgres, question: str) -> object:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(question.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def test_it_listens_on_a_private_socket_only_and_syncs(place: Path, reaper: Reaper) -> None:
    server = EmbeddedPostgres(place)
    with server:
        assert server.pid is not None
        reaper.watch(server.pid)
        assert ask(server, "SHOW listen_addresses") == ""
        assert ask(server, "SHOW fsync") == "on"
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SELECT current_database() || current_user") == "ccatccat"
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
    assert server.pid is None


def test_data_survive_a_restart(place: Path, server_at: Servers) -> None:
    server = server_at(place)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    assert ask(server_at(place), "SELECT answer FROM kept") == 42


def test_it_recovers_after_a_kill(place: Path, server_at: Servers) -> None:
    server = server_at(place)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None, what="the death of the server")
    again = server_at(place)
    assert ask(again, "SELECT answer FROM kept") == 42
    assert again.pid is not None
    os.kill(again.pid, signal.SIGKILL)
    wait_until(lambda: again.pid is None, what="the death of the server")
    assert again.start() == again.url
    assert ask(again, "SELECT answer FROM kept") == 42


def test_a_reused_process_id_in_the_pid_file_is_ignored(place: Path, server_at: Servers) -> None:
    server = server_at(place)
    pid_file = server.cluster / "postmaster.pid"
    stranger = pid_file.read_text().splitlines()
    stranger[0] = str(os.getpid())
    server.stop()
    pid_file.write_text("\n".join(stranger) + "\n")
    assert ask(server_at(place), "SELECT 1") == 1


def test_two_users_share_one_server_and_the_last_stops_it(place: Path, server_at: Servers) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(server_at, [place, place])
    assert first.pid == second.pid
    first.stop()
    assert ask(second, "SELECT 1") == 1
    second.stop()
    assert second.pid is None


def test_a_server_of_a_killed_process_is_adopted(place: Path, server_at: Servers) -> None:
    code = (
        "import os, signal; from pathlib import Path; from ccat_workflow_manager.embedded import EmbeddedPostgres; "
        f"EmbeddedPostgres(Path({str(place)!r}), fsync=False).start(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = EmbeddedPostgres(place).pid
    assert left is not None
    assert EmbeddedPostgres(place).is_abandoned()
    server = server_at(place)
    assert server.pid == left
    assert not EmbeddedPostgres(place).is_abandoned()
    assert not EmbeddedPostgres(place).stop_abandoned()
    server.stop()
    assert server.pid is None


@pytest.mark.parametrize("name", ["d" * 120, "with space, comma and 'quotes\""])
def test_any_data_directory_works(place: Path, server_at: Servers, name: str) -> None:
    server = server_at(place / name)
    assert ask(server, "SELECT 1") == 1
    shutil.rmtree(server.socket_dir)


def test_a_foreign_socket_directory_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    server = EmbeddedPostgres(place / ("d" * 120))
    server.socket_dir.symlink_to(place)
    with pytest.raises(ConfigurationError, match=r"cannot be made|belongs to another user"):
        server.start()


def test_an_interrupted_first_start_can_be_repeated(place: Path, server_at: Servers) -> None:
    half = place / "postgres" / "cluster.partial"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert ask(server_at(place), "SELECT 1") == 1


def test_a_cluster_of_another_major_version_is_refused(place: Path, server_at: Servers) -> None:
    server = server_at(place)
    server.stop()
    (server.cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="was made by PostgreSQL 9, this is"):
        server.start()


def test_a_failed_start_shows_the_log(place: Path, server_at: Servers) -> None:
    server = server_at(place)
    server.stop()
    (server.cluster / "global" / "pg_control").unlink()
    with pytest.raises(ServiceUnavailable, match="pg_control"):
        server.start()


@pytest.mark.needs("root")
def test_root_without_user_namespaces(place: Path, server_at: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is given to `nobody`, which must be able to reach it and the programs."""
    monkeypatch.setattr(postgres, "NAMESPACE", ["false"])
    nobody = pwd.getpwnam("nobody").pw_uid
    with pytest.raises(ConfigurationError, match=f"user {nobody} cannot use"):
        server_at(place)  # made by mkdtemp, for root only
    place.chmod(0o755)
    server = server_at(place)
    assert ask(server, "SELECT 1") == 1
    assert os.stat(f"/proc/{server.pid}").st_uid == nobody
    code = f"import psycopg; psycopg.connect({server.url.replace('+psycopg', '')!r})"
    for argv, refused in ((["setpriv", f"--reuid={nobody}", "--clear-groups"], True), (["env"], False)):
        done = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True)
        assert ("Peer authentication failed" in done.stderr, done.returncode == 0) == (refused, not refused)
    server.stop()
    # The directory now belongs to `nobody`, with or without namespaces.
    monkeypatch.undo()
    assert ask(server_at(place), "SELECT 1") == 1


@pytest.mark.needs("root")
def test_as_an_ordinary_user(place: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(place, nobody, nobody)
    code = (
        "from pathlib import Path; import psycopg; from ccat_workflow_manager.embedded import *\n"
        f"with EmbeddedPostgres(Path({str(place)!r})) as url, EmbeddedValkey(Path({str(place)!r})) as cache:\n"
        "    print(psycopg.connect(url.replace('+psycopg', '')).execute('SELECT 6 * 7').fetchone()[0], cache)"
    )
    argv = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    if "Permission denied" in done.stderr and not done.stdout:
        pytest.skip("the ordinary user cannot reach this checkout")
    assert done.stdout.startswith("42 unix://"), done.stderr


def test_valkey_answers_and_keeps_nothing_on_disk(valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}
        client.set("bell", "rung")
    valkey.stop()
    assert valkey.pid is None
    with redis.Redis.from_url(valkey.start()) as client:
        assert client.get("bell") is None


def test_valkey_starts_again_after_a_kill(place: Path, valkey: EmbeddedValkey, reaper: Reaper) -> None:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    wait_until(lambda: valkey.pid is None, what="the death of the server")
    with EmbeddedValkey(place) as url, redis.Redis.from_url(url) as client:
        assert client.ping()


def test_valkey_is_shared(place: Path, valkey: EmbeddedValkey) -> None:
    other = EmbeddedValkey(place)
    assert other.start() == valkey.url
    assert other.pid == valkey.pid
    other.stop()
    assert valkey.pid is not None
