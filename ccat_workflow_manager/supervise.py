"""A deployment on one machine: starts, watches and stops embedded servers, a manager and workers.

The children are forked after all imports, so they start in milliseconds and share memory (docs/decisions/0014). This
process keeps one thread and opens no connection.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from ccat_workflow_manager import local_api
from ccat_workflow_manager.db.migrate import upgrade
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.forked import die_with_parent, in_forked_process
from ccat_workflow_manager.settings import Settings
from ccat_workflow_manager.watchdog import Page

log = logging.getLogger(__name__)

_PRELOADED = (
    "ccat_workflow_manager.http_server",
    "ccat_workflow_manager.managers.loops",
    "ccat_workflow_manager.processes",
    *(f"ccat_workflow_manager.hpc.{name}" for name in ("concurrent.backend", "local", "noop", "supervisor.link")),
    "jsonschema.validators",
)
"""What each child needs, at its start or for its first run."""
_RESTART_SECONDS = (0.5, 30.0)
_HEALTHY_SECONDS = 60.0
_DRAIN_SECONDS = 30.0
_SAY_SECONDS, _SAY_AGAIN_SECONDS = 2.0, 10.0
_KILLED_SECONDS = 5.0
_CHECK_SERVERS_SECONDS = 10.0
_READY_SECONDS, _SAY_NOT_READY_SECONDS = 300.0, 30.0
ALWAYS_SERVED = ("local", "noop", "concurrent")
"""Backends that need only this machine."""


@dataclass(slots=True)
class _Child:
    name: str
    run: Callable[[Page], None]
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0
    watched: bool = False
    page: Page = field(default_factory=Page)
    """The signs of life of a worker."""


@dataclass(slots=True)
class Deployment:
    settings: Settings
    _children: list[_Child] = field(default_factory=list)
    _servers: list[EmbeddedServer] = field(default_factory=list)
    _lock: IO[str] | None = None
    _signals: int = -1
    _stopping: bool = False

    @property
    def api_url(self) -> str:
        if self.settings.api_socket.name:
            return f"unix:{self.settings.api_socket}"
        host = self.settings.api_host
        return f"http://[{host}]:{self.settings.api_port}" if ":" in host else f"http://{host}:{self.settings.api_port}"

    @property
    def stopping(self) -> bool:
        """True after SIGTERM or SIGINT."""
        return self._stopping

    def start(self) -> None:
        """Start servers that the settings do not name, migrate the database, start manager and workers."""
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.settings.data_dir)
        try:
            if not self.settings.api_socket.name:
                if self.settings.api_port == 0:
                    self.settings = self.settings.model_copy(update={"api_port": _free_port(self.settings.api_host)})
                _require_free(self.settings.api_host, self.settings.api_port)
            self._start_servers()
            # Apart, so that no process keeps the libraries of the first migration.
            in_forked_process(partial(_upgrade, self.settings.database_url))
            preload()
            self._signals = _wakeup_pipe()
            self._children = [_Child("manager", lambda page: self._run_manager())]
            self._children += [
                _Child(f"worker {n + 1}", self._run_worker, watched=True) for n in range(self.settings.workers)
            ]
            for child in self._children:
                self._spawn(child)
        except BaseException:
            self.stop()
            raise

    def _start_servers(self) -> None:
        settings = self.settings
        if not settings.database_url:
            self._servers.append(EmbeddedPostgres(settings.data_dir))
            settings = settings.model_copy(update={"database_url": self._servers[-1].start()})
        if not settings.redis_url:
            self._servers.append(EmbeddedValkey(settings.data_dir))
            settings = settings.model_copy(update={"redis_url": self._servers[-1].start()})
        self.settings = settings

    def _restart_servers(self) -> None:
        """Start embedded servers that have died. Manager and workers wait for them."""
        for server in self._servers:
            if server.pid is None:
                log.warning("the embedded %s has died and is started again", server.name)
                server.start()

    # --- children ----------------------------------------------------------------------------------------------------

    def _run_manager(self) -> None:
        from ccat_workflow_manager.processes import run_manager

        run_manager(self.settings)

    def _run_worker(self, page: Page) -> None:
        from ccat_workflow_manager.processes import run_worker

        run_worker(self.settings, list(dict.fromkeys((self.settings.hpc_backend, *ALWAYS_SERVED))), page)

    def _spawn(self, child: _Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.started = time.monotonic()
        if child.watched:
            child.page.write(child.started, "starting")
        me = os.getpid()
        child.pid = os.fork()
        if child.pid == 0:
            os._exit(_run_child(child, me))
        log.debug("%s is process %d", child.name, child.pid)

    def watch(self, seconds: float | None = None) -> None:
        """Restart children and servers that die, until `seconds` have passed or a signal comes."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._stopping:
            self._reap()
            self._kill_hung()
            now = time.monotonic()
            if until is not None and now >= until:
                return
            dead = [child for child in self._children if child.pid == 0]
            for child in dead:
                if child.restart_at <= now:
                    self._spawn(child)
            times = [child.restart_at for child in dead] + [now + _CHECK_SERVERS_SECONDS]
            wake_up = min(times) if until is None else min(*times, until)
            if select.select([self._signals], [], [], max(0.0, wake_up - time.monotonic()))[0]:
                numbers = os.read(self._signals, 64)
                self._stopping = signal.SIGTERM in numbers or signal.SIGINT in numbers
            if not self._stopping:
                self._restart_servers()

    def _reap(self) -> None:
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self._plan_restart(child, os.waitstatus_to_exitcode(status))

    def _kill_hung(self) -> None:
        """Kill workers that cannot even end themselves."""
        for child in self._children:
            seen, what = child.page.read()
            silent = time.monotonic() - seen
            if child.pid and child.watched and silent > self.settings.hang_seconds:
                log.error("%s has hung for %.0f s (HANG_SECONDS) and is killed: %s", child.name, silent, what)
                os.kill(child.pid, signal.SIGKILL)

    def _plan_restart(self, child: _Child, code: int) -> None:
        now = time.monotonic()
        child.pid = 0
        child.failures = 0 if now - child.started > _HEALTHY_SECONDS else child.failures + 1
        pause = min(_RESTART_SECONDS[0] * 2 ** max(0, child.failures - 1), _RESTART_SECONDS[1])
        child.restart_at = now + pause
        if not self._stopping:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.warning("%s ended (%s) and is started again in %.1f s", child.name, how, pause)

    # --- end ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let every child finish its current task, then stop the servers. Running jobs go on."""
        self._stopping = True
        living = [child for child in self._children if child.pid]
        for child in living:
            os.kill(child.pid, signal.SIGTERM)
        living, why = self._drain(living)
        for child in living:
            log.warning("%s %s and is killed; another worker takes its work over", child.name, why)
            os.kill(child.pid, signal.SIGKILL)
        for child in living:
            self._await_end(child)
        while self._servers:
            server = self._servers.pop()
            log.info("stopping the embedded %s", server.name)
            server.stop()
        if self._lock is not None:
            self._lock.close()

    def _drain(self, living: list[_Child]) -> tuple[list[_Child], str]:
        """Wait for the ends of the children, for _DRAIN_SECONDS or until a second signal. Returns those that live."""
        began = time.monotonic()
        say_at = began + _SAY_SECONDS
        while living and (now := time.monotonic()) < began + _DRAIN_SECONDS:
            living = [child for child in living if not _ended(child)]
            if living and now >= say_at:
                say_at = now + _SAY_AGAIN_SECONDS
                names, left = ", ".join(child.name for child in living), began + _DRAIN_SECONDS - now
                log.warning(
                    "%s must finish the task in hand: waiting up to %.0f s more; a second signal ends it now",
                    names,
                    left,
                )
            if living and select.select([self._signals], [], [], 0.05)[0]:
                numbers = os.read(self._signals, 64)
                if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                    return living, "was still at work at the second signal"
        return living, f"did not end within {_DRAIN_SECONDS:.0f} s"

    def _await_end(self, child: _Child) -> None:
        """Wait for the end of a killed child, but not for ever: it may wait in the kernel, for a file server say."""
        deadline = time.monotonic() + _KILLED_SECONDS
        while not _ended(child):
            if time.monotonic() > deadline:
                log.error("%s (process %d) hangs in the kernel and is left behind", child.name, child.pid)
                return
            select.select([self._signals], [], [], 0.05)
            with contextlib.suppress(BlockingIOError):
                os.read(self._signals, 64)

    def wait_ready(self) -> None:
        """Return when the API accepts connections. Raises ServiceUnavailable."""
        now = time.monotonic()
        deadline, say_at = now + _READY_SECONDS, now + _SAY_NOT_READY_SECONDS
        while not self._stopping:
            if _accepts(self.settings):
                assert self._lock is not None
                self._lock.write(f"{self.api_url}\n")
                self._lock.flush()
                return
            now = time.monotonic()
            if now > deadline:
                raise ServiceUnavailable(f"the API did not come up at {self.api_url} within {_READY_SECONDS:.0f} s")
            if now > say_at:
                say_at = now + _SAY_NOT_READY_SECONDS
                log.warning("the API is not up yet at %s: waiting up to %.0f s more", self.api_url, deadline - now)
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


def _locked(data_dir: Path) -> IO[str]:
    """A lock on the data directory for as long as this process lives. Raises ServiceUnavailable if another has it.

    A lock of this kind is not inherited: the children of a killed `up` do not keep the next one out.
    """
    file = (data_dir / local_api.DEPLOYMENT_FILE).open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.readline(20).strip()
        file.close()
        process = f" (process {owner})" if owner.isdecimal() else ""
        text = f"another `ccat-wm up` or `demo`{process} uses {data_dir}: end it, or choose another --data-dir"
        raise ServiceUnavailable(text) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def stop_abandoned(settings: Settings) -> list[tuple[str, bool]]:
    """Stop the embedded servers that a killed `up` has left. Returns the name of each that runs, and if it was stopped.

    One that another process uses is not stopped.
    """
    servers: list[EmbeddedServer] = [EmbeddedPostgres(settings.data_dir), EmbeddedValkey(settings.data_dir)]
    return [(server.name, server.stop_abandoned()) for server in servers if server.pid is not None]


def _ended(child: _Child) -> bool:
    if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
        child.pid = 0
    return child.pid == 0


def _run_child(child: _Child, parent: int) -> int:
    """Run a forked child with signals of its own. Returns its exit code."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        # Ctrl-C in a terminal reaches the whole group; only the parent acts on it and ends the children in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child.run(child.page)
        return 0
    except WorkflowError as error:
        log.error("%s: %s", child.name, error.message)
        return 3
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:  # the end of a process
        log.exception("%s failed", child.name)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _upgrade(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    database.close()


def preload() -> None:
    """Import what every child needs, and freeze it, so that garbage collection does not copy shared pages."""
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _wakeup_pipe() -> int:
    """Returns a descriptor from which the number of each signal can be read, so that waiting needs no polling."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def on_signal(number: int, frame: FrameType | None) -> None:
        """The number arrives through the pipe."""

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, on_signal)
    signal.set_wakeup_fd(writer)
    return reader


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


def _accepts(settings: Settings) -> bool:
    if settings.api_socket.name:
        return local_api.accepts(settings.api_socket)
    try:
        socket.create_connection((settings.api_host, settings.api_port), timeout=1).close()
    except OSError:
        return False
    return True
