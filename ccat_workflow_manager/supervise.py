"""Everything on one machine: embedded servers, one manager, some workers, each started, watched and ended.

The children are forked from this process after everything has been imported once, so they start in milliseconds and
share its memory. This process itself stays small: one thread, no connection to anything.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType

from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.settings import Settings

log = logging.getLogger(__name__)

_PRELOADED = ("ccat_workflow_manager.app", "ccat_workflow_manager.processes", "uvicorn.protocols.http.httptools_impl")
_PR_SET_PDEATHSIG = 1
_RESTART_SECONDS = (0.5, 30.0)
_HEALTHY_SECONDS = 60.0
_DRAIN_SECONDS = 30.0
_LOOK_SECONDS = 10.0
_READY_SECONDS = 60.0
ALWAYS_SERVED = ("local", "noop", "concurrent")
"""Backends that need nothing but this machine."""


@dataclass(slots=True)
class _Child:
    name: str
    work: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Deployment:
    """One deployment on this machine."""

    settings: Settings
    _children: list[_Child] = field(default_factory=list)
    _servers: list[EmbeddedServer] = field(default_factory=list)
    _signals: int = -1
    _stopping: bool = False

    @property
    def api_url(self) -> str:
        host = self.settings.api_host
        return f"http://[{host}]:{self.settings.api_port}" if ":" in host else f"http://{host}:{self.settings.api_port}"

    @property
    def stopping(self) -> bool:
        """Whether somebody asked this process to stop."""
        return self._stopping

    def start(self) -> None:
        """Start the servers that are not given, bring the database up to date, start manager and workers."""
        if self.settings.api_port == 0:
            self.settings = replace(self.settings, api_port=_free_port(self.settings.api_host))
        _require_free(self.settings.api_host, self.settings.api_port)
        try:
            self._start_servers()
            _preload()
            database = Database(self.settings.database_url)
            upgrade(database)
            database.close()
            self._signals = _wakeup_pipe()
            self._children = [_Child("manager", self._manager)]
            self._children += [_Child(f"worker {n + 1}", self._worker) for n in range(self.settings.workers)]
            for child in self._children:
                self._spawn(child)
        except BaseException:
            self.stop()
            raise

    def _start_servers(self) -> None:
        settings = self.settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        if not settings.database_url:
            self._servers.append(EmbeddedPostgres(settings.data_dir))
            settings = replace(settings, database_url=self._servers[-1].start())
        if not settings.redis_url:
            self._servers.append(EmbeddedValkey(settings.data_dir))
            settings = replace(settings, redis_url=self._servers[-1].start())
        self.settings = settings

    def _revive_servers(self) -> None:
        """Start an embedded server again that has died; everybody who uses it waits and goes on."""
        for server in self._servers:
            if server.pid is None:
                log.warning("the embedded %s is gone and is started again", server.name)
                server.start()

    # --- children ----------------------------------------------------------------------------------------------------

    def _manager(self) -> None:
        from ccat_workflow_manager.processes import run_manager

        run_manager(self.settings)

    def _worker(self) -> None:
        from ccat_workflow_manager.processes import run_worker

        run_worker(self.settings, list(dict.fromkeys((self.settings.hpc_backend, *ALWAYS_SERVED))))

    def _spawn(self, child: _Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.started = time.monotonic()
        child.pid = os.fork()
        if child.pid == 0:
            os._exit(_run_child(child))
        log.debug("%s is process %d", child.name, child.pid)

    def watch(self, seconds: float | None = None) -> None:
        """Restart what dies, until `seconds` have passed or this process is asked to stop."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._stopping:
            self._reap()
            now = time.monotonic()
            if until is not None and now >= until:
                return
            due = [child.due for child in self._children if child.pid == 0]
            for child in self._children:
                if child.pid == 0 and child.due <= now:
                    self._spawn(child)
            moments = [moment for moment in (*due, until, now + _LOOK_SECONDS) if moment is not None]
            ready, _, _ = select.select([self._signals], [], [], max(0.0, min(moments) - time.monotonic()))
            if ready:
                numbers = os.read(self._signals, 64)
                self._stopping = signal.SIGTERM in numbers or signal.SIGINT in numbers
            if not self._stopping:
                self._revive_servers()

    def _reap(self) -> None:
        for child in self._children:
            if child.pid == 0:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        now = time.monotonic()
        child.pid = 0
        child.failures = 0 if now - child.started > _HEALTHY_SECONDS else child.failures + 1
        pause = min(_RESTART_SECONDS[0] * 2 ** max(0, child.failures - 1), _RESTART_SECONDS[1])
        child.due = now + pause
        if not self._stopping:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.warning("%s ended (%s) and is started again in %.1f s", child.name, how, pause)

    # --- end ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let every process finish what it has in hand, then end the servers. Running jobs go on without us."""
        self._stopping = True
        living = [child for child in self._children if child.pid]
        for child in living:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while living and time.monotonic() < deadline:
            for child in living:
                if os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
            living = [child for child in living if child.pid]
            if living:
                select.select([self._signals], [], [], 0.05)
                _drain(self._signals)
        for child in living:
            log.warning("%s did not end within %.0f s and is killed", child.name, _DRAIN_SECONDS)
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.pid = 0
        while self._servers:
            self._servers.pop().stop()

    def wait_ready(self) -> None:
        """Until the API accepts connections."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self._stopping:
            if _accepts(self.settings.api_host, self.settings.api_port):
                return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"the API did not come up at {self.api_url} within {_READY_SECONDS:.0f} s")
            self.watch(0.02)


def up(settings: Settings, on_ready: Callable[[Deployment], None] = lambda deployment: None) -> None:
    """Run a deployment until SIGTERM or SIGINT."""
    deployment = Deployment(settings)
    deployment.start()
    try:
        deployment.wait_ready()
        on_ready(deployment)
        deployment.watch()
    finally:
        deployment.stop()


def _run_child(child: _Child) -> int:
    """The life of a forked child: its own signals, its own exit code, and never the parent's clean-up."""
    try:
        signal.set_wakeup_fd(-1)
        _die_with_parent()
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C in a terminal reaches the whole group; only the parent acts on it and ends the children in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child.work()
        return 0
    except WorkflowError as error:
        log.error("%s: %s", child.name, error.message)
        return 3
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        log.exception("%s failed", child.name)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _die_with_parent() -> None:
    """Linux: be asked to stop when the parent is killed, or its next start would find the port taken."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _preload() -> None:
    """Import once what every child needs, and keep the garbage collector from touching (and so copying) it."""
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _wakeup_pipe() -> int:
    """A descriptor that becomes readable with the number of each signal, so that waiting needs no polling."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def on_signal(number: int, frame: FrameType | None) -> None:
        """The number arrives through the pipe."""

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, on_signal)
    signal.set_wakeup_fd(writer)
    return reader


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 64)
    except BlockingIOError:
        return


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _require_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ConfigurationError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; choose another port with --port"
        ) from error


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
