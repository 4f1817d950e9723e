"""The event loop of the supervisor: it sleeps until a client sends a request, a process ends, or something is due."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.supervisor import processes
from ccat_workflow_manager.hpc.supervisor.engine import Engine
from ccat_workflow_manager.hpc.supervisor.jobs import Job, State
from ccat_workflow_manager.hpc.supervisor.queue import Limits, Refused
from ccat_workflow_manager.hpc.supervisor.wire import PROTOCOL, Unpacker, pack

_READ = 1 << 18
_FIRST_CLIENT_SECONDS = 10.0
"""A client has started this supervisor, so it waits at least so long for that client."""
_CHECK_SOCKET_SECONDS = 5.0
_LARGEST_BACKLOG = 64 * 1024 * 1024
"""What a client may leave unread before it is cut off."""


class Server:
    """Serves clients until it was idle for long enough or is asked to end. Running jobs go on."""

    def __init__(
        self, listener: socket.socket, machine: Limits, idle_exit: float, reachable: Callable[[], bool]
    ) -> None:
        self.engine: Engine  # needs this object as its watcher
        self._machine = machine
        self._listener = listener
        self._idle_exit = idle_exit
        self._reachable = reachable
        self._check_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._clients: set[Client] = set()
        self._leaving = False
        self._idle_at = 0.0
        self._wake_read, self._wake_write = os.pipe()
        for file in (self._wake_read, self._wake_write):
            os.set_blocking(file, False)

    def limits_from(self, configured: dict[str, Any]) -> Limits:
        """0 stands for what the machine has."""
        return Limits(
            cpu_milli=round(configured["cpu"] * 1000) or self._machine.cpu_milli,
            memory=int(configured["memory"]) or self._machine.memory,
            kill_grace=float(configured["kill_grace"]),
            log_limit=int(configured["log_limit"]),
            disk_limit=int(configured["disk_limit"]),
        )

    # --- watching processes ------------------------------------------------------------------------------------------

    def watch(self, pidfd: int, job: Job) -> None:
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _: self.engine.adopted_ended(job))

    def unwatch(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._signalled)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, self._leave_on_signal)
        self._idle_at = time.monotonic() + max(self._idle_exit, _FIRST_CLIENT_SECONDS)
        self._advance()
        while not self._leaving:
            events = self._selector.select(self._timeout())
            # Ends of processes first: no client gets `running` for a job that is over.
            for key, mask in sorted(events, key=self._order):
                key.data(mask)
            self._advance()
            self._answer_waiting()
            if self._busy():
                self._idle_at = time.monotonic() + self._idle_exit
            elif time.monotonic() >= self._idle_at:
                self._leaving = True
            self._check_socket()
        # A client with an unread request sees the end of its connection, and asks the next supervisor.
        for client in list(self._clients):
            client.close()

    def _check_socket(self) -> None:
        """End if no client can connect: the directory was removed, perhaps made again for another supervisor."""
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + _CHECK_SOCKET_SECONDS
            if not self._reachable():
                print("the socket of this supervisor is gone: it ends", file=sys.stderr, flush=True)
                self._leaving = True

    def _advance(self) -> None:
        """Bring the jobs up to date: collect ends, start jobs, then write records."""
        engine = self.engine
        engine.reap()
        engine.look_after_jobs()
        engine.start_next()
        # A client that waits for a job asks for its status: the others need not hear of its end.
        awaited = {job_id for client in self._clients for job_id in client.waits_for}
        ended = [job_id for job_id in engine.publish_ended() if job_id not in awaited]
        if ended:
            frame = pack({"ended": ended})
            for client in list(self._clients):
                if client.subscribed:
                    client.send(frame)

    def _busy(self) -> bool:
        return bool(self._clients) or not self.engine.idle

    def _timeout(self) -> float:
        now = time.monotonic()
        of_engine = self.engine.due()
        due = min((client.waits_until for client in self._clients), default=inf)
        if of_engine is not None:
            due = min(due, of_engine)
        elif not self._busy():
            due = self._idle_at
        return max(0.0, min(self._check_at, due) - now)

    def _order(self, event: tuple[selectors.SelectorKey, int]) -> bool:
        return event[0].fd != self._wake_read

    def _signalled(self, _: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._advance()

    def _leave_on_signal(self, *_: object) -> None:
        self._leaving = True

    def _accept(self, _: int) -> None:
        with suppress(OSError):  # the client is gone, or tries again after too many open files
            connection, _address = self._listener.accept()
            connection.setblocking(False)
            self._clients.add(Client(self, connection, self._selector))

    def dropped(self, client: Client) -> None:
        self._clients.discard(client)

    def _answer_waiting(self) -> None:
        """Answer the clients whose jobs have ended, and those whose time is over."""
        now = time.monotonic()
        for client in [client for client in self._clients if client.waits_until < inf]:
            if now >= client.waits_until or not self.engine.is_running(client.waits_for):
                client.waits_until, client.waits_for = inf, ()
                client.send(pack({"ok": None}))

    # --- requests ----------------------------------------------------------------------------------------------------

    def answer(self, client: Client, request: Any) -> dict[str, Any] | None:
        """One answer for each request: `ok` with what `do_NAME` returns, or `error` in words.

        Returns None if the answer follows later.
        """
        handler = getattr(self, f"do_{request.get('do')}", None) if isinstance(request, dict) else None
        if handler is None:
            return {"error": f"the supervisor does not know the request {str(request)[:200]}"}
        try:
            answer = handler(client, request)
            return {"ok": answer} if client.waits_until == inf else None
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            traceback.print_exc()
            return {"error": f"the supervisor cannot read the request: {type(error).__name__}: {error}"}

    def do_hello(self, _: Client, request: dict[str, Any]) -> dict[str, Any]:
        """The protocol, and the limits of the client's configuration: those of the last client count."""
        if request["protocol"] == PROTOCOL:
            self.engine.queue.limits = self.limits_from(request["limits"])
        return {"protocol": PROTOCOL, "pid": os.getpid()}

    def do_submit(self, _: Client, request: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._submit_one(item) for item in request["jobs"]]

    def _submit_one(self, item: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"id": self.engine.submit(item)}
        except Refused as refusal:
            return {"refused": str(refusal)}
        except OSError as error:
            return {"failed": f"{error.strerror}: {error.filename}", "errno": error.errno}

    def do_statuses(self, _: Client, request: dict[str, Any]) -> list[dict[str, Any] | None]:
        jobs = self.engine.jobs
        why = self.engine.why_waiting()
        return [_describe(jobs[job_id], why) if job_id in jobs else None for job_id in request["ids"]]

    def do_await(self, client: Client, request: dict[str, Any]) -> None:
        """Answered when none of the jobs runs any more, or when the time is over."""
        until, job_ids = time.monotonic() + float(request["seconds"]), tuple(map(str, request["ids"]))
        client.waits_until, client.waits_for = until, job_ids

    def do_find(self, _: Client, request: dict[str, Any]) -> str | None:
        return self.engine.find(request["name"])

    def do_list(self, _: Client, request: dict[str, Any]) -> list[tuple[str, str, float]]:
        """The jobs that have not ended."""
        jobs = self.engine.jobs.values()
        return [(job.id, job.name, job.submitted) for job in jobs if job.state is not State.FINISHED]

    def do_cancel(self, _: Client, request: dict[str, Any]) -> None:
        self.engine.reap()  # a job that has ended by now was not cancelled
        for job_id in request["ids"]:
            self.engine.cancel(job_id)

    def do_cleanup(self, _: Client, request: dict[str, Any]) -> None:
        for job_id in request["ids"]:
            self.engine.forget(job_id)

    def do_usage(self, _: Client, request: dict[str, Any]) -> dict[str, Any] | None:
        job = self.engine.jobs.get(request["id"])
        return processes.usage(job) if job is not None and job.state is State.RUNNING else None

    def do_queue(self, _: Client, request: dict[str, Any]) -> dict[str, Any]:
        queue = self.engine.queue
        return {
            "running": queue.running,
            "pending": len(queue),
            "cpus_total": queue.limits.cpu_milli / 1000,
            "cpus_used": queue.cpu_milli / 1000,
            "memory_total_gb": queue.limits.memory / GIB,
            "memory_used_gb": queue.memory / GIB,
        }

    def do_files(self, _: Client, request: dict[str, Any]) -> list[str] | None:
        job = self.engine.jobs.get(request["id"])
        return None if job is None else [job.workspace, job.name]

    def do_subscribe(self, client: Client, request: dict[str, Any]) -> None:
        client.subscribed = True

    def do_leave(self, _: Client, request: dict[str, Any]) -> None:
        """End for another supervisor, which takes the jobs over."""
        self._leaving = True


def _describe(job: Job, why_waiting: str) -> dict[str, Any]:
    match job.state:
        case State.QUEUED:
            return {"state": "pending", "message": why_waiting, "submitted": job.submitted}
        case State.RUNNING | State.ENDING:
            return {"state": "running", "submitted": job.submitted, "started": job.started}
        case State.FINISHED:
            return {"state": "finished", "submitted": job.submitted, "record": job.record, "lost": job.lost}


class Client:
    """One connection."""

    def __init__(self, server: Server, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        self.subscribed = False
        self.waits_until = inf
        """When a request of this client is answered at the latest, if it waits for the ends of jobs."""
        self.waits_for: tuple[str, ...] = ()
        self._server = server
        self._connection = connection
        self._selector = selector
        self._unpacker = Unpacker()
        self._backlog = bytearray()
        self._closed = False
        selector.register(connection, selectors.EVENT_READ, self._ready)

    def send(self, frame: bytes) -> None:
        if self._closed:
            return
        waited = bool(self._backlog)
        self._backlog += frame
        if not waited:
            self._write()
        if len(self._backlog) > _LARGEST_BACKLOG:
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._selector.unregister(self._connection)
            self._connection.close()
            self._server.dropped(self)

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write()
        if mask & selectors.EVENT_READ and not self._closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for request in self._unpacker.feed(data):
                answer = self._server.answer(self, request)
                if answer is not None:
                    self.send(pack(answer))
        except BackendConfused as error:
            self.send(pack({"error": error.message}))
            self.close()

    def _write(self) -> None:
        if self._closed:
            return
        try:
            sent = self._connection.send(self._backlog)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._backlog[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._backlog else 0)
        if self._selector.get_key(self._connection).events != events:
            self._selector.modify(self._connection, events, self._ready)


def _nothing(*_: object) -> None:
    """A signal without a handler would not wake the loop."""
