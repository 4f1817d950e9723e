"""Runs the commands of a scheduler on a submit node, through the OpenSSH client of this machine.

All calls share one connection (ControlMaster), so one costs a round trip and not a handshake. The login shell of the
account there must be a POSIX shell.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.base import Availability

CONNECT_SECONDS = 10
_KEEP_SECONDS = 60
_SSH_FAILED = 255
_NOT_255 = 254
_MISSING = 127
_SOONER_SECONDS = 5
"""So much earlier than here a command is ended there, so that none goes on after its caller has given it up."""
_OPTIONS = (
    "BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ControlMaster=auto", f"ControlPersist={_KEEP_SECONDS}",
    "ServerAliveInterval=5", "ServerAliveCountMax=3", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes",
    "PermitLocalCommand=no", "LogLevel=ERROR",
)  # fmt: skip
# Messages of ssh itself, before anything runs there; none of them may match the output of a command.
_NEVER_STARTED = re.compile(
    r"^(ssh: (connect to host|Could not resolve)|\S+@\S+: Permission denied \(|Host key verification failed"
    r"|kex_exchange_identification: |Connection timed out during banner exchange|Bad owner or permissions on "
    r"|Can't open user config )",
    re.MULTILINE,
)
_HINT = "on Debian: apt install openssh-client"


class CommandLost(shell.CommandError):
    """The connection broke; the command may have been carried out."""

    code = "command_lost"


@dataclass(frozen=True, slots=True)
class SubmitNode:
    """The machine that has the commands of a scheduler."""

    host: str
    """As `ssh` takes it: a name, USER@NAME, or a Host of its configuration."""
    config: str | None = None
    """The configuration of `ssh`, if not the user's."""

    @staticmethod
    def is_available() -> Availability:
        if shutil.which("ssh") is not None:
            return Availability(True)
        return Availability(False, "not on the search path: ssh", _HINT)

    def argv(self, argv: Sequence[str], environment: Mapping[str, str], seconds: float) -> list[str]:
        """The `ssh` command that runs `argv` there, with this environment and the search path of that machine."""
        options = [word for option in _OPTIONS for word in ("-o", option)]
        config = ["-F", self.config] if self.config else []
        control = ["-o", f"ControlPath={control_directory()}/%C"]
        return [
            "ssh",
            *config,
            *options,
            *control,
            "-T",
            "--",
            self.host,
            render_remote(argv, environment, seconds - _SOONER_SECONDS),
        ]

    def completed(self, done: shell.Completed, argv: Sequence[str], backend: str) -> shell.Completed:
        """The end of the command there.

        Raises BackendUnavailable if it was never started, CommandLost if it may have been.
        """
        if done.returncode == _SSH_FAILED:
            words = " ".join(done.stderr.split())[-500:] or "it printed nothing"
            message = f"ssh to {self.host} failed: {words}"
            if _NEVER_STARTED.search(done.stderr):
                raise BackendUnavailable(message, backend=backend, command=argv)
            raise CommandLost(message, argv, done.output_tail)
        if done.returncode == _MISSING:
            raise BackendUnavailable(f"there is no program {argv[0]!r} on {self.host}", backend=backend, command=argv)
        return shell.Completed(tuple(argv), done.returncode, done.stdout, done.stderr, done.truncated)


def render_remote(argv: Sequence[str], environment: Mapping[str, str], seconds: float) -> str:
    """The line for the shell there, which ends the command after `seconds`.

    `ssh` itself ends with 255 when it fails, so no command may: it then ends with 254.
    """
    kept = " ".join(f'{name}="${name}"' for name in ("PATH", "HOME", "USER"))
    given = join(f"{name}={value}" for name, value in environment.items())
    line = f"env -i {kept} {given} timeout -s KILL {max(1, round(seconds))} {' '.join(quote(word) for word in argv)}"
    return f"{line}; code=$?; [ $code -ne {_SSH_FAILED} ] || code={_NOT_255}; exit $code"


def control_directory() -> Path:
    """A directory of this user for the sockets of connections. Its name is short, because those of sockets must be."""
    directory = Path(tempfile.gettempdir(), f"ccat-wm-ssh-{os.geteuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        raise BackendUnavailable(f"{directory} cannot be used for connections: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or directory.is_symlink():
        raise BackendUnavailable(f"{directory} belongs to another user, or other users can open it; remove it")
    return directory
