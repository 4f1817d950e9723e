"""Run tests on the PostgreSQL and the Redis of the distribution, which are older than those of the wheels.

    python -m tests.old_servers                            # the store, and flows with every kind of end
    python -m tests.old_servers tests/services -k cancel   # others

The servers are started in a directory of their own, which is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.support.fixtures_servers import DATABASE_VARIABLE, REDIS_VARIABLE
from tests.support.waiting import PATIENCE, wait_until

_DEFAULT = ("tests/store", "--ignore=tests/store/test_plans.py", "tests/services", "tests/flow/test_old_servers.py")
"""The guard of plans reads the log of the embedded server, and holds for its version alone."""
_OWNER = "postgres"
_SETTINGS = {"listen_addresses": "", "fsync": "off", "synchronous_commit": "off", "max_connections": "200"}


def _programs() -> Path:
    """The directory of the oldest PostgreSQL that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        sys.exit("there is no PostgreSQL of the distribution here; install it with `make lab`")
    return found[0].parent


@contextmanager
def _postgres(directory: Path) -> Iterator[str]:
    """Runs the server. Gives the URL of a database."""
    programs, cluster = _programs(), directory / "cluster"
    as_owner = ["runuser", "-u", _OWNER, "--"] if os.geteuid() == 0 else []
    if as_owner:
        shutil.chown(directory, _OWNER)
    make = [*as_owner, str(programs / "initdb"), "-D", str(cluster), "-U", "ccat", "-A", "trust", "-E", "UTF8",
            "--locale=C"]  # fmt: skip
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    settings = {**_SETTINGS, "unix_socket_directories": str(directory)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (directory / "postgres.log").open("wb") as log:
        command = [*as_owner, str(programs / "postgres"), "-D", str(cluster), *options]
        server = subprocess.Popen(command, stderr=log, cwd=directory)
    try:
        ask = [str(programs / "psql"), "-h", str(directory), "-U", "ccat", "-d", "postgres", "-qAt", "-c"]
        wait_until(lambda: subprocess.run([*ask, "SELECT 1"], capture_output=True, check=False).returncode == 0, 60,
                   "PostgreSQL")  # fmt: skip
        subprocess.run([*ask, "CREATE DATABASE ccat"], check=True)
        yield f"postgresql+psycopg://ccat@/ccat?host={quote(str(directory), safe='')}"
    finally:
        pid = int((cluster / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        server.wait(PATIENCE)


@contextmanager
def _redis(directory: Path) -> Iterator[str]:
    """Runs the server. Gives its URL."""
    path = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(directory), "--daemonize", "no"]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, 30, "Redis")
        yield f"unix://{path}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _run(environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "", *(arguments or _DEFAULT)]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of pytest."""
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-old-"))
    directory.chmod(0o755)
    (directory / "redis").mkdir()
    try:
        with _postgres(directory) as database_url, _redis(directory / "redis") as redis_url:
            return _run({DATABASE_VARIABLE: database_url, REDIS_VARIABLE: redis_url}, arguments)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
