"""A private Docker daemon: with no network at all, or with networks of its own that lead nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import docker

from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

MARK = "CCAT_WM_DOCKER"
SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_NO_NETWORK = ("--bridge=none", "--iptables=false", "--host-gateway-ip=127.0.0.1")
"""moto gives every container a name for the host, even without a network."""
_OWN_NETWORKS = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""In a namespace of its own, a daemon changes no rule of this machine's network."""


class DockerDaemon:
    """`dockerd` with all that it keeps in one directory."""

    def __init__(self, directory: Path, reaper: Reaper, *, networks: bool = False) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        reaper.remove(directory)
        reaper.kill_marked(f"{MARK}={directory}")
        argv = [
            *(_OWN_NETWORKS if networks else ()),
            "dockerd",
            f"--data-root={directory}/data",
            f"--exec-root={directory}/exec",
            f"--pidfile={directory}/pid",
            f"--host={self.url}",
            "--ip6tables=false",
            *(() if networks else _NO_NETWORK),
        ]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv, env={"PATH": SEARCH_PATH, "HOME": str(directory), MARK: str(directory)}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, 60, f"dockerd; its log: {self.log}")
        self.client = docker.DockerClient(base_url=self.url)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            client = docker.DockerClient(base_url=self.url)
        except docker.errors.DockerException:
            return False
        client.close()
        return True

    def close(self) -> None:
        for container in self.client.containers.list(all=True):
            container.remove(force=True)
        self.client.close()
        self._process.terminate()
        self._process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)


class RootFiles:
    """The files of an image, from nothing."""

    def __init__(self, directories: Mapping[str, int] = {}) -> None:
        """`directories`: further ones, with their owner."""
        self._data = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._data, mode="w")
        for name, owner in {**dict.fromkeys(("bin", "tmp", "proc", "sys", "dev", "etc"), 0), **directories}.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755, owner
            self._tar.addfile(entry)

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def copy(self, path: str, name: str) -> None:
        self._tar.add(path, name)

    def write(self, name: str, text: str, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(text.encode()), mode
        self._tar.addfile(entry, io.BytesIO(text.encode()))

    def close(self) -> bytes:
        self._tar.close()
        return self._data.getvalue()
