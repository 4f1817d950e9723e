"""The local backend keeps the whole contract, with a supervisor of its own for each clause."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.local import LocalBackend
from ccat_workflow_manager.hpc.supervisor import wire
from ccat_workflow_manager.hpc.supervisor.link import Conversation
from ccat_workflow_manager.testing.backend_contract import BackendContract, BackendHarness
from ccat_workflow_manager.testing.harness import Job
from tests.support.waiting import PATIENCE, wait_until

NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)
NO_JSON = b"\0\0\0\x07nothing"


def end_supervisor(state_dir: Path) -> None:
    """Ask the supervisor of this directory to leave, and wait until it has."""
    try:
        conversation = Conversation(wire.connect(str(state_dir), PATIENCE))
    except NOBODY_THERE:
        return
    limits = {"cpu": 0, "memory": 0, "kill_grace": 0.3, "log_limit": 1 << 20, "disk_limit": 0}
    pid = conversation.ask({"do": "hello", "protocol": wire.PROTOCOL, "limits": limits})["ok"]["pid"]
    with suppress(OSError):
        conversation.ask({"do": "leave"})
    conversation.hang_up()
    wait_until(lambda: (process := process_tree.look(pid)) is None or not process.alive, what="the supervisor's end")


class LocalHarness(BackendHarness):
    """The service of this backend is its supervisor."""

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    def close(self) -> None:
        try:
            super().close()
        finally:
            end_supervisor(self.state_dir)

    @contextmanager
    def service_down(self) -> Iterator[None]:
        """There is no supervisor, and none can be started."""
        end_supervisor(self.state_dir)
        aside = self.state_dir.rename(self.state_dir.with_suffix(".aside"))
        self.state_dir.touch()
        try:
            yield
        finally:
            self.state_dir.unlink()
            aside.rename(self.state_dir)

    @contextmanager
    def corrupt_answer(self, job: Job) -> Iterator[None]:
        """Something else listens where the supervisor should."""
        end_supervisor(self.state_dir)
        listener = wire.listen(str(self.state_dir))
        listener.setblocking(True)
        babbler = Thread(target=_babble, args=(listener,), daemon=True)
        babbler.start()
        try:
            yield
        finally:
            # Closing alone would not wake the one who is waiting in `accept`.
            listener.shutdown(socket.SHUT_RDWR)
            babbler.join()
            listener.close()
            (self.state_dir / wire.SOCKET_NAME).unlink(missing_ok=True)

    @contextmanager
    def count_status_calls(self) -> Iterator[Callable[[], int]]:
        calls = 0
        ask = Conversation.ask

        def counted(self: Conversation, request: Any) -> Any:
            nonlocal calls
            calls += 1
            return ask(self, request)

        with mock.patch.object(Conversation, "ask", counted):
            yield lambda: calls


def _babble(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(NO_JSON)


class TestLocal(BackendContract):
    def make_harness(self, workdir: Path) -> BackendHarness:
        config: dict[str, Any] = {"state_dir": str(workdir / "state"), "kill_grace_seconds": 0.3}
        harness = LocalHarness(
            create=partial(LocalBackend, **config),
            workdir=workdir,
            factory="ccat_workflow_manager.hpc.local:LocalBackend",
            config=config,
        )
        ordinary = harness.resources
        harness.refused = [
            replace(ordinary, partition="science"),
            replace(ordinary, account="ccat"),
            replace(ordinary, cpu=100_000),
            replace(ordinary, memory_gb=10_000_000),
        ]
        return harness
