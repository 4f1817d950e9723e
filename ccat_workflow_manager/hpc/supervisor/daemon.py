"""The supervisor as a process: one for each state directory, detached from the worker that has started it.

Everything is imported before it detaches, so that an upgrade of the package under its feet does it no harm.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.opener import read_small
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.supervisor import cgroups
from ccat_workflow_manager.hpc.supervisor.engine import Engine
from ccat_workflow_manager.hpc.supervisor.index import Index
from ccat_workflow_manager.hpc.supervisor.jobs import Job, State, read_part
from ccat_workflow_manager.hpc.supervisor.queue import Limits
from ccat_workflow_manager.hpc.supervisor.server import Server
from ccat_workflow_manager.hpc.supervisor.wire import LOCK_NAME, LOG_NAME, OwnSocket, connect, holder, listen

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02
_LARGEST_LOG = 1024 * 1024
_MEMORY_SHARE = 0.9


def start(state_dir: str, options: dict[str, Any]) -> int:
    """Start a supervisor unless there is one. Returns 0 once clients can connect, else 1 with an error on stderr."""
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        os.chmod(state_dir, 0o700)
        lock = os.open(os.path.join(state_dir, LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o600)
        if not _acquire(lock, state_dir, options.get("replace", "")):
            return 0
        index = Index(state_dir)
        listener = listen(state_dir)
        log = _open_log(os.path.join(state_dir, LOG_NAME))
    except OSError as error:
        print(f"the supervisor of local jobs cannot use {state_dir}: {error}", file=sys.stderr)
        return 1
    # From here on a client can connect; it is answered once the jobs have been taken over.
    if os.fork() == 0:
        _detach(log)
        _note(lock, HostProcess.of(os.getpid()).text)
        _serve(state_dir, index, listener, options)
    return 0


def _acquire(lock: int, state_dir: str, silent: str) -> bool:
    """Hold the lock. Returns False if another supervisor holds it and can be connected to. Raises OSError.

    `silent` is a holder that has not answered a client. It is killed, as is one that cannot be connected to: its jobs
    go on, and are taken over.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    if silent and holder(state_dir) == silent:
        _kill_holder(silent)
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        # Another supervisor runs, starts or ends.
        with suppress(OSError):
            connect(state_dir, _PATIENCE_SECONDS).close()
            return False
        if time.monotonic() > deadline:
            found = holder(state_dir)
            if not _kill_holder(found):
                words = f"host, boot, process, start: {found or 'unknown'}"
                raise TimeoutError(f"a supervisor that does not answer holds {LOCK_NAME} ({words}); end that process")
            deadline = time.monotonic() + _PATIENCE_SECONDS
        time.sleep(_PAUSE_SECONDS)


def _kill_holder(text: str) -> bool:
    """Kill the holder of the lock. Returns False if it is not known, or is one of another machine. Raises OSError."""
    process = HostProcess.parse(text)
    if process is None or not process.is_of_this_boot:
        return False
    if process.running:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return True


def _open_log(path: str) -> int:
    if os.path.exists(path) and os.path.getsize(path) > _LARGEST_LOG:
        os.unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _detach(log: int) -> None:
    """Become independent of the worker that started this process: own session, own streams."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _note(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _serve(state_dir: str, index: Index, listener: socket.socket, options: dict[str, Any]) -> NoReturn:
    # Orphans of jobs become children of this process.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    groups = cgroups.detect(f"ccat-wm-{os.stat(state_dir).st_ino}") if options["cgroups"] else None
    own = OwnSocket(state_dir)
    server = Server(listener, _machine(), options["idle_exit"], own.is_there)
    server.engine = Engine(index, groups, server.limits_from(options["limits"]), server, process_tree.boot_id())
    _take_over(server.engine, index)
    if groups is not None:
        groups.sweep()
    measured = groups.version.source if groups is not None else "watching processes"
    _log(f"serves, with {len(server.engine.jobs)} jobs from before; memory limits by {measured}")
    server.run()
    own.remove()
    listener.close()
    if groups is not None:
        groups.close()
    _log("ends")
    os._exit(0)


def _take_over(engine: Engine, index: Index) -> None:
    """Take over from an earlier supervisor: the ends of its jobs are read from what their scripts have left."""
    for job in index.load(engine.boot):
        engine.keep(job)
        try:
            if not _take_over_finished(engine, job):
                _take_over_unfinished(engine, index, job)
        except (OSError, ValueError) as error:
            job.state = State.FINISHED
            job.lost = (FailureReason.EXIT_RECORD_UNREADABLE, str(error))


def _take_over_finished(engine: Engine, job: Job) -> bool:
    """Raises OSError and ValueError."""
    found = read_small(job.files.record, root=job.files.directory)
    if found is None:
        return False
    if parse_exit_record(found.text).finished_at is None:
        # A script that was alone has published it, without what only a supervisor knows.
        engine.take_over_ended(job)
    else:
        job.state, job.record = State.FINISHED, found.text
    return True


def _take_over_unfinished(engine: Engine, index: Index, job: Job) -> None:
    """Raises OSError."""
    part = read_part(job.files)
    if part is None:
        # Never started. Its script may still be on its way if the last supervisor was killed in this very moment: of
        # two scripts one claims the attempt, and the other one gives up.
        if job.boot != engine.boot:
            job.boot = engine.boot
            with suppress(OSError):
                index.add(job)
        if job.stop is None:
            engine.queue.put(job)
        else:
            engine.drop(job)
    elif part.complete or not engine.adopt(job, part):
        engine.take_over_ended(job)


def _machine() -> Limits:
    """What jobs may use if nothing is configured: the CPUs and 90 % of the memory that this process may use itself."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            sizes.append(int(Path(path).read_text()))
    return Limits(len(os.sched_getaffinity(0)) * 1000, int(min(sizes) * _MEMORY_SHARE), 0, 0)


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} supervisor {os.getpid()} {text}", file=sys.stderr, flush=True)
