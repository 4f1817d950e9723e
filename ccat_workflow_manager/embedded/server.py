"""Base of the embedded servers: directory, locks, a socket path that is short enough, log."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}
_POLL_SECONDS = 0.01
_SOCKET_PATH_LIMIT = 107
_LOG_LIMIT_BYTES = 10 * 1024 * 1024


class EmbeddedServer(ABC):
    """The server of one directory, shared between processes through two lock files.

    A process holds `change.lock` while it starts or stops the server, and a shared lock on `users.lock` for as long as
    it uses the server. The kernel releases the locks of a process that dies.
    """

    name: str

    def __init__(self, data_dir: Path, *, timeout: float = 300) -> None:
        self.home = data_dir.absolute() / self.name
        self.log_file = self.home / f"{self.name}.log"
        self._timeout = timeout
        self._in_use: int | None = None
        self._child: shell.Process | None = None

    def start(self) -> str:
        """Start the server unless it runs, and return its URL. Raises ServiceUnavailable.

        A second call starts a server that has died.
        """
        self._make_home()
        with self._changing():
            if self.pid is None:
                self._launch()
            if self._in_use is None:
                self._in_use = _locked(self.home / "users.lock", fcntl.LOCK_SH)
        return self.url

    def stop(self) -> None:
        """Stop the server, unless another process uses it."""
        if self._in_use is None:
            return
        with self._changing():
            os.close(self._in_use)
            self._in_use = None
            self._stop_unused()

    def stop_abandoned(self) -> bool:
        """Stop a server whose processes were all killed. Returns False if a process uses it."""
        with self._changing():
            return self._stop_unused()

    def is_abandoned(self) -> bool:
        """Whether the server runs and no process uses it."""
        if self.pid is None:
            return False
        try:
            # Who stops or starts the server holds this lock.
            change = _locked(self.home / "change.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            os.close(_locked(self.home / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except OSError:
            return False
        finally:
            os.close(change)
        return True

    def _stop_unused(self) -> bool:
        try:
            alone = _locked(self.home / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            self._shut_down()
        finally:
            os.close(alone)
        return True

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """URL for clients."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Process id of the server of this directory, whichever process started it."""

    @abstractmethod
    def _launch(self) -> None:
        """Start the server and wait until it answers."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Stop the server and wait until it is gone."""

    @property
    def socket_dir(self) -> Path:
        """Directory of the socket: below `home`, or in the temporary directory if that path is too long.

        A path with a comma cannot be used either: PostgreSQL's clients read it as a list of hosts.
        """
        wanted = self.home / "socket"
        if len(os.fsencode(wanted / self._socket_name)) <= _SOCKET_PATH_LIMIT and "," not in str(wanted):
            return wanted
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"ccat-wm-{os.geteuid()}-{self.name}-{digest}"

    _socket_name: str

    def _make_home(self) -> None:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self.name}: {error.filename} cannot be made: {error.strerror}") from error
        found = self.socket_dir.lstat()
        # Any user may have made this name in the temporary directory.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), self.home.stat().st_uid):
            raise ConfigurationError(
                f"{self.name}: {self.socket_dir} belongs to another user; use a shorter data directory"
            )
        self.socket_dir.chmod(0o700)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        lock = _locked(self.home / "change.lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def _spawn(self, argv: list[str]) -> shell.Process:
        """Start the program in a new session, so that Ctrl-C does not reach it before the processes that use it."""
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.old"))
        with self.log_file.open("ab") as log:
            self._child = shell.spawn(
                argv, env=ENVIRONMENT, cwd=self.home, stdout=log, stderr=shell.STDOUT, new_session=True
            )
        return self._child

    def _wait_for_answer(self, process: shell.Process, answers: Callable[[], bool]) -> None:
        if not wait_until(lambda: answers() or process.poll() is not None, self._timeout):
            process.terminate()
            raise self._silent()
        if process.returncode is not None and not answers():
            raise ServiceUnavailable(f"{self.name} did not start; the end of {self.log_file}:\n{self._log_tail()}")

    def _silent(self) -> ServiceUnavailable:
        return ServiceUnavailable(f"{self.name} did not answer within {self._timeout:g} s; see {self.log_file}")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-8:])
        return ""

    def _ended(self, pid: int, timeout: float) -> bool:
        """Wait for the end of the process. Returns False after `timeout`."""
        ended = wait_until(lambda: not _runs(pid), timeout)
        if self._child is not None:
            self._child.poll()
        return ended


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll the condition. Returns False if it has not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def programs_of(package: str, where: str, program: str) -> Path:
    """The directory of the programs in an installed wheel. Raises ConfigurationError if `program` is not in it."""
    spec = find_spec(package)
    found = Path(spec.origin).parent / where if spec and spec.origin else None
    if found is None or not os.access(found / program, os.X_OK):
        raise ConfigurationError(
            f"{program} is not installed: the package {package} has none for this machine. Use a server of your "
            "own and name it in CCAT_WORKFLOW_MANAGER_DATABASE_URL or CCAT_WORKFLOW_MANAGER_REDIS_URL"
        )
    return found


def _locked(path: Path, how: int) -> int:
    """Lock the file and return its descriptor. Closing that releases the lock."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        raise
    return handle


def _runs(pid: int) -> bool:
    """True if the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
