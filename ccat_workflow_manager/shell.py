"""Run other programs: the only module that imports `subprocess`.

A command is an argument vector, never a shell line. `run` waits, with a time limit; `spawn` starts and returns.
"""

from __future__ import annotations

import contextlib
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
"""`run` keeps so many bytes of each stream, drops the rest and sets `Completed.truncated`."""

_CHUNK = 64 * 1024
_TAIL = 2000
_POLL_SECONDS = 0.1


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
    """A program did not end in time and was killed with its process group."""

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
    """The output exceeded OUTPUT_LIMIT: `stdout` and `stderr` hold only its beginning."""

    @property
    def output_tail(self) -> str:
        """The end of stderr, or of stdout if stderr is empty, for an error message."""
        return (self.stderr.strip() or self.stdout.strip())[-_TAIL:]


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: str | bytes | None = None,  # noqa: A002 - the name that subprocess.run has
    stop_when: Callable[[str], object] | None = None,
) -> Completed:
    """Run a program to its end. Raises CommandMissing and CommandTimeout, and no error for a bad exit code.

    `env` None inherits the environment of this process. Output is decoded as UTF-8 with replacement characters.
    A child of the program that keeps the pipes open is not waited for. The program is killed as soon as `stop_when`
    returns true for what it has written to stderr: sbatch, for one, retries for minutes after it has reported a full
    queue.
    """
    with _in_memory(input) if input else contextlib.nullcontext(DEVNULL) as stdin:
        process = spawn(argv, env=env, cwd=cwd, stdin=stdin, stdout=PIPE, stderr=PIPE)
    out, err = _Captured(), _Captured()
    with process:
        try:
            ended = _collect(process, out, err, time.monotonic() + timeout, stop_when)
        finally:
            _kill(process)
        if not ended:
            _collect(process, out, err, time.monotonic() + _POLL_SECONDS)
            raise CommandTimeout(argv, timeout, (err.text or out.text)[-_TAIL:])
    return Completed(tuple(argv), process.returncode, out.text, err.text, out.truncated or err.truncated)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: Stream = DEVNULL,
    stdout: Stream = DEVNULL,
    stderr: Stream = DEVNULL,
    new_session: bool = True,
) -> Process:
    """Start a program and return at once. The caller must wait for it. Raises CommandMissing."""
    try:
        return subprocess.Popen(
            list(argv),
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=new_session,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if cwd is not None and str(error.filename) == os.fspath(cwd):
            raise CommandMissing(f"cannot start `{argv[0]}` in {cwd}: {error.strerror}", argv) from error
        raise CommandMissing(f"cannot start `{argv[0]}`: {error.strerror}", argv) from error


def kill_group(pid: int, number: Signals) -> None:
    """Send a signal to the process group that `pid` leads, if it still exists."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


@dataclass(slots=True)
class _Captured:
    """The first OUTPUT_LIMIT bytes of one stream."""

    data: bytearray = field(default_factory=bytearray)
    truncated: bool = False

    def add(self, chunk: bytes) -> None:
        room = OUTPUT_LIMIT - len(self.data)
        self.data += chunk[:room]
        self.truncated |= len(chunk) > room

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


def _collect(
    process: Process,
    out: _Captured,
    err: _Captured,
    deadline: float,
    stop_when: Callable[[str], object] | None = None,
) -> bool:
    """Read both streams until the program has ended. Returns False if the deadline came first."""
    over = False
    with selectors.DefaultSelector() as selector:
        for pipe, captured in ((process.stdout, out), (process.stderr, err)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, captured)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            ready = selector.select(0 if over else min(left, _POLL_SECONDS))
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                key.data.add(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is err and stop_when is not None and stop_when(err.text):
                    _kill(process)
            if not ready:
                if over:
                    break
                over = process.poll() is not None  # it may have printed something since the pipes were looked at
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: Process) -> None:
    if process.poll() is None:
        kill_group(process.pid, SIGKILL)
        process.wait()


def _in_memory(content: str | bytes) -> IO[bytes]:
    """A file without a name that holds the content: a program can read it slowly or not at all."""
    file = os.fdopen(os.memfd_create("input"), "w+b")
    file.write(content.encode() if isinstance(content, str) else content)
    file.seek(0)
    return file
