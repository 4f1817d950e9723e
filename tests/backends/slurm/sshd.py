"""An SSH server on loopback that accepts the one key that was made for it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

_SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class SshServer:
    """`config` is what a client needs to get in as the host `node`."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.config = directory / "ssh_config"
        self.programs = directory / "programs"
        """Found first by commands that come in."""
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        directory.chmod(0o700)
        for key in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)],
                check=True,
                timeout=PATIENCE,
            )
        shutil.copy(directory / "user.pub", directory / "authorized")
        self.know(directory / "host.pub")
        self.config.write_text(
            f"Host node\n  HostName 127.0.0.1\n  Port {self.port}\n  User {pwd.getpwuid(os.geteuid()).pw_name}\n"
            f"  IdentityFile {directory}/user\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
            f"  UserKnownHostsFile {directory}/known\n  GlobalKnownHostsFile /dev/null\n"
        )
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {directory}/host\nPidFile {directory}/pid\n"
            f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin prohibit-password\n"
            f"SetEnv PATH={self.programs}:{os.environ['PATH']} LOGIN_SECRET=swordfish\n"
        )

    def know(self, key: Path) -> None:
        """What the client takes for the key of the server."""
        words = key.read_text().split()
        (self.directory / "known").write_text(f"[127.0.0.1]:{self.port} {words[0]} {words[1]}\n")

    def start(self) -> None:
        if os.geteuid() == 0:
            # Debian's server wants it, and it goes with every restart of the machine.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        server = shutil.which("sshd", path=_SEARCH)
        assert server is not None
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [server, "-D", "-e", "-f", str(self.directory / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._reaper.watch(self._process.pid)
        wait_until(self._answers, 20, f"sshd to listen; see {self.directory}/log")

    def stop(self) -> None:
        """End it and every connection."""
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    if process.name().startswith("sshd"):
                        process.send_signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait(PATIENCE)
        self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
