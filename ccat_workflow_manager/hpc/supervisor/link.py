"""The connection of the `local` backend to its supervisor, which is started when there is none."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.supervisor import wire
from ccat_workflow_manager.hpc.supervisor.wire import PROTOCOL, Unpacker, pack

ANSWER_SECONDS = 20.0
IDLE_EXIT_SECONDS = 300.0
_START_SECONDS = 40.0

_BACKEND = "local"
_SCRIPT = str(Path(wire.__file__).with_name("start.py"))
_PAUSES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Before each attempt: one supervisor may be on its way out while the next one comes."""
_CHUNK = 1 << 18
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_NOT_RUNNING = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)


class Conversation:
    """One connection to a supervisor."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unpacker = Unpacker()
        self._values: deque[Any] = deque()

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Raises OSError and BackendConfused."""
        self._connection.sendall(pack(request))
        return self.receive()

    def receive(self) -> Any:
        """Raises OSError and BackendConfused."""
        while not self._values:
            data = self._connection.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the supervisor has closed the connection")
            self._values.extend(self._unpacker.feed(data))
        return self._values.popleft()

    def receive_all(self) -> list[Any]:
        """All values that have arrived, at least one. Raises OSError and BackendConfused."""
        values = [self.receive(), *self._values]
        self._values.clear()
        return values

    def wait_for_ever(self) -> None:
        self._connection.settimeout(None)

    def hang_up(self) -> None:
        """Close the connection, also for another thread that waits in `receive`."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class SupervisorLink:
    """Sends requests to the supervisor of one state directory, from any thread. Each request may be sent twice."""

    def __init__(
        self, state_dir: str, limits: Mapping[str, float], *, idle_exit: float = IDLE_EXIT_SECONDS, cgroups: bool = True
    ) -> None:
        self.state_dir = os.path.abspath(state_dir)
        self._limits = dict(limits)
        self._options = {"limits": self._limits, "idle_exit": idle_exit, "cgroups": cgroups}
        self._lock = threading.Lock()
        self._conversation: Conversation | None = None
        self._owner = os.getpid()

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The answer. Raises BackendUnavailable and BackendConfused."""
        with self._lock:
            for pause in _PAUSES:
                time.sleep(pause)
                conversation = self._current()
                try:
                    return _answer_in(conversation.ask(request))
                except TimeoutError:
                    self._drop()
                    raise self._replace_silent() from None
                except OSError:
                    # It was killed, or was about to end.
                    self._drop()
                except BackendConfused:
                    self._drop()
                    raise
        raise BackendUnavailable(
            f"the supervisor of local jobs ends at each request; its log: {self.state_dir}/{wire.LOG_NAME}",
            backend=_BACKEND,
        )

    def converse(self) -> Conversation:
        """A new connection. Raises BackendUnavailable and BackendConfused."""
        for pause in _PAUSES:
            time.sleep(pause)
            try:
                connection = wire.connect(self.state_dir, ANSWER_SECONDS)
                self._check_owner()
                conversation = Conversation(connection)
                if self._introduce(conversation):
                    return conversation
            except _NOT_RUNNING:
                self._start()
            except TimeoutError:
                raise self._replace_silent() from None
            except OSError:
                continue
        raise BackendUnavailable(f"the supervisor of local jobs in {self.state_dir} does not answer", backend=_BACKEND)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _current(self) -> Conversation:
        if self._owner != os.getpid():
            # After a fork the connection is the parent's.
            self._owner, self._conversation = os.getpid(), None
        if self._conversation is None:
            self._conversation = self.converse()
        return self._conversation

    def _drop(self) -> None:
        if self._conversation is not None and self._owner == os.getpid():
            self._conversation.hang_up()
        self._conversation = None

    def _introduce(self, conversation: Conversation) -> bool:
        """Exchange protocol and limits. Returns False if the supervisor is an older one, which then ends."""
        hello = {"do": "hello", "protocol": PROTOCOL, "limits": self._limits}
        theirs = _answer_in(conversation.ask(hello))["protocol"]
        if theirs == PROTOCOL:
            return True
        if theirs > PROTOCOL:
            raise BackendUnavailable(
                "the supervisor of local jobs belongs to a newer version of this program: start this one anew",
                backend=_BACKEND,
            )
        conversation.ask({"do": "leave"})
        conversation.hang_up()
        return False

    def _start(self, replace: str = "") -> None:
        argv = [sys.executable, "-I", "-S", _SCRIPT, self.state_dir, json.dumps({**self._options, "replace": replace})]
        try:
            done = shell.run(argv, timeout=_START_SECONDS, env={"LANG": "C.UTF-8"}, cwd="/")
        except shell.CommandError as error:
            raise BackendUnavailable(error.message, backend=_BACKEND, command=error.argv) from error
        if done.returncode != 0:
            text = done.output_tail or f"the supervisor of local jobs cannot be started: exit code {done.returncode}"
            raise BackendUnavailable(text, backend=_BACKEND, command=argv, output_tail=done.output_tail)

    def _replace_silent(self) -> BackendUnavailable:
        """Replace a supervisor that does not answer. Its jobs go on and are taken over."""
        self._start(replace=wire.holder(self.state_dir))
        text = f"the supervisor of local jobs in {self.state_dir} has not answered for {ANSWER_SECONDS:g} s: "
        return BackendUnavailable(f"{text}another one replaces it", backend=_BACKEND)

    def _check_owner(self) -> None:
        """Refuse a directory that another user has made first, as is possible in a shared temporary directory."""
        if os.stat(self.state_dir).st_uid != os.geteuid():
            raise BackendUnavailable(f"{self.state_dir} belongs to another user", backend=_BACKEND)


class Listener:
    """Receives the ends of jobs in a thread of its own. Connects again whenever the supervisor has changed."""

    def __init__(self, link: SupervisorLink, on_change: Callable[[Sequence[str]], None]) -> None:
        self._link = link
        self._on_change = on_change
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._conversation: Conversation | None = None
        with suppress(BackendUnavailable, BackendConfused, OSError):
            self._subscribe()
        self._thread = threading.Thread(target=self._run, name="local-backend-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        with self._lock:
            if self._conversation is not None:
                self._conversation.hang_up()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopped.is_set():
            try:
                conversation = self._conversation or self._subscribe()
                pause = _FIRST_PAUSE_SECONDS
                self._receive(conversation)
            except (BackendUnavailable, BackendConfused, OSError):
                # Not reported: the next status call shows whether the supervisor answers.
                self._conversation = None
                self._stopped.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _subscribe(self) -> Conversation:
        conversation = self._link.converse()
        _answer_in(conversation.ask({"do": "subscribe"}))
        conversation.wait_for_ever()
        with self._lock:
            self._conversation = conversation
            if self._stopped.is_set():
                conversation.hang_up()
        return conversation

    def _receive(self, conversation: Conversation) -> None:
        while not self._stopped.is_set():
            frames = conversation.receive_all()
            ended = [str(job_id) for frame in frames if isinstance(frame, dict) for job_id in frame.get("ended", ())]
            if ended and not self._stopped.is_set():
                self._on_change(ended)


def _answer_in(frame: Any) -> Any:
    if isinstance(frame, dict) and "ok" in frame:
        return frame["ok"]
    error = frame.get("error") if isinstance(frame, dict) else None
    raise unusable(error or frame)


def unusable(answer: Any) -> BackendConfused:
    text = answer if isinstance(answer, str) else repr(answer)
    words = f"the supervisor of local jobs gave an answer that cannot be used: {text[:200]}"
    return BackendConfused(words, backend=_BACKEND, output_tail=text[-2000:])
