"""Running other programs: the only module that imports `subprocess`.

A command is an argument vector, never a shell line. `run` waits, with a time limit; `spawn` starts and returns.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import join
from signal import SIGKILL, Signals
from typing import IO, TypeAlias

from ccat_workflow_manager.errors import WorkflowError

Process: TypeAlias = "subprocess.Popen[bytes]"
Stream: TypeAlias = "int | IO[bytes]"

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT

OUTPUT_LIMIT = 64 * 1024 * 1024
"""How many bytes of each stream `run` keeps; the rest is read and dropped, and `Completed.truncated` says so."""

_CHUNK = 64 * 1024
_TAIL = 2000
_LOOK_AGAIN_SECONDS = 0.1


class CommandError(WorkflowError):
    """A program could not be run to its end."""

    code = "command_error"

    def __init__(self, message: str, argv: Sequence[str], output_tail: str = "") -> None:
        super().__init__(message)
        self.argv = tuple(argv)
        self.output_tail = output_tail


class CommandMissing(CommandError):
    """A program does not exist or may not be executed."""

    code = "command_missing"


class CommandTimeout(CommandError):
    """A program did not end in time and was killed with everything it had started in its process group."""

    code = "command_timeout"

    def __init__(self, argv: Sequence[str], timeout: float, output_tail: str) -> None:
        super().__init__(f"`{join(argv)}` did not end within {timeout:g} s and was killed", argv, output_tail)
        self.timeout = timeout


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended and what it printed. `returncode` is minus the signal for a program that was killed."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    truncated: bool = False
    """More was printed than `OUTPUT_LIMIT`: what is here is the beginning, and must not be read as all of it."""

    @property
    def output_tail(self) -> str:
        """The end of what was printed, for an error message; stderr if there is any."""
        return (self.stderr.strip() or self.stdout.strip())[-_TAIL:]


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: str | bytes | None = None,  # noqa: A002 - the name that subprocess.run has
    enough: Callable[[str], object] | None = None,
) -> Completed:
    """Run a program to its end. Raises CommandMissing and CommandTimeout; a bad exit code is the caller's to judge.

    `env` None inherits the environment of this process. The output is decoded as UTF-8, whatever cannot be is replaced.
    A program that leaves a child behind which holds its pipes open is not waited for longer than itself. One whose
    complaints are `enough` is killed: it would only go on trying.
    """
    data = input.encode() if isinstance(input, str) else input or b""
    process = spawn(argv, env=env, cwd=cwd, stdin=PIPE if data else DEVNULL, stdout=PIPE, stderr=PIPE)
    with _Conversation(process, data, enough) as conversation:
        ended = conversation.hold(time.monotonic() + timeout)
        if not ended:
            kill_group(process.pid, SIGKILL)
            process.wait()
            conversation.drain()
            raise CommandTimeout(argv, timeout, (conversation.stderr.text or conversation.stdout.text)[-_TAIL:])
        return Completed(
            argv=tuple(argv),
            returncode=process.wait(),
            stdout=conversation.stdout.text,
            stderr=conversation.stderr.text,
            truncated=conversation.stdout.truncated or conversation.stderr.truncated,
        )


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Stream = DEVNULL,
    stdout: Stream = DEVNULL,
    stderr: Stream = DEVNULL,
    new_session: bool = True,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a program and return at once; the caller waits for it. Raises CommandMissing."""
    try:
        return subprocess.Popen(
            list(argv),
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=new_session,
            pass_fds=tuple(pass_fds),
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if cwd is not None and str(error.filename) == os.fspath(cwd):
            raise CommandMissing(f"cannot start `{argv[0]}` in {cwd}: {error.strerror}", argv) from error
        raise CommandMissing(f"cannot start `{argv[0]}`: {error.strerror}", argv) from error


def kill_group(pid: int, number: Signals) -> None:
    """Send a signal to the process group that `pid` leads; one that is gone already is fine."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


@dataclass(slots=True)
class _Captured:
    """The beginning of one output stream."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    truncated: bool = False

    def add(self, chunk: bytes) -> None:
        room = OUTPUT_LIMIT - self.size
        if len(chunk) > room:
            self.truncated = True
            chunk = chunk[:room]
        if chunk:
            self.chunks.append(chunk)
            self.size += len(chunk)

    @property
    def text(self) -> str:
        return b"".join(self.chunks).decode("utf-8", "replace")


class _Conversation:
    """Feeds a program its input and reads its output, without ever blocking on one pipe."""

    def __init__(self, process: Process, data: bytes, enough: Callable[[str], object] | None) -> None:
        self.process = process
        self._enough = enough
        self.stdout = _Captured()
        self.stderr = _Captured()
        self._data = memoryview(data)
        self._selector = selectors.DefaultSelector()
        for pipe, captured in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, captured)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        """On the way out by an unexpected error (or Ctrl-C) the program is not left behind."""
        self._end()
        self._selector.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _end(self) -> None:
        if self.process.poll() is None:
            kill_group(self.process.pid, SIGKILL)
            self.process.wait()

    def hold(self, deadline: float) -> bool:
        """Exchange until the program has ended; False if the deadline comes first."""
        while self._selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ready = self._selector.select(min(left, _LOOK_AGAIN_SECONDS))
            self._serve(ready)
            if not ready and self.process.poll() is not None:
                break
        return self._ended(deadline)

    def drain(self) -> None:
        """Read what is in the pipes now."""
        while ready := [entry for entry in self._selector.select(0) if entry[1] & selectors.EVENT_READ]:
            self._serve(ready)

    def _ended(self, deadline: float) -> bool:
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _serve(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if isinstance(key.data, _Captured):
                self._read(key, key.data)
            else:
                self._write(key)

    def _read(self, key: selectors.SelectorKey, captured: _Captured) -> None:
        chunk = os.read(key.fd, _CHUNK)
        if chunk:
            captured.add(chunk)
            if captured is self.stderr and self._enough is not None and self._enough(captured.text):
                self._end()
        else:
            self._finish(key)

    def _write(self, key: selectors.SelectorKey) -> None:
        try:
            written = os.write(key.fd, self._data[:_CHUNK])
        except BrokenPipeError:
            # The program does not want the rest, which is its right.
            self._finish(key)
            return
        self._data = self._data[written:]
        if not self._data:
            self._finish(key)

    def _finish(self, key: selectors.SelectorKey) -> None:
        pipe = key.fileobj
        self._selector.unregister(pipe)
        if not isinstance(pipe, int):
            pipe.close()  # type: ignore[attr-defined]
