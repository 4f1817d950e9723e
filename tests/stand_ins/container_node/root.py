"""The file system that a container sees: this machine's or an image's, with the volumes where the pod wants them.

It is put together in a mount namespace of the container's own; the machine's own directories are not touched, not even
for a mount point that does not exist there.
"""

from __future__ import annotations

import os
from typing import Any

from tests.stand_ins.container_node import kernel

_SHARED = ("proc", "sys", "dev")
"""Directories that a container of an image has from the machine."""


class CannotMount(Exception):
    """A volume cannot be put where the pod wants it."""


def enter(spec: dict[str, Any]) -> None:
    """Build the root and make it this process's. Raises CannotMount, OSError.

    `mounts`: [source, target, read only]. `root`: the directory of an image, or None. `scratch`: an empty directory.
    """
    try:
        kernel.unshare_mounts()
    except OSError as error:
        _make_do(spec, error)
        return
    _Root(spec["scratch"], spec["root"]).build(spec["mounts"])


def _make_do(spec: dict[str, Any], error: OSError) -> None:
    """Without mounts, only volumes that are mounted where they are on the machine work, and read-only is not kept."""
    elsewhere = [target for source, target, _ in spec["mounts"] if os.path.realpath(source) != os.path.realpath(target)]
    wanted = [target for target in elsewhere if target != spec["message_target"]]
    if wanted or spec["root"]:
        raise CannotMount(f"nothing can be mounted on this machine ({error.strerror}): {wanted or spec['root']}")


class _Root:
    def __init__(self, scratch: str, image: str | None) -> None:
        self.base = scratch
        self.image = image
        self._layers = 0
        self._ours: list[str] = []
        """Directories in which mount points may be made: those made or covered here, and volumes."""

    def build(self, mounts: list[tuple[str, str, bool]]) -> None:
        # Everything that is made here is in memory and goes with the namespace.
        kernel.mount("tmpfs", self.base, "tmpfs")
        self.layers, self.new = f"{self.base}/layers", f"{self.base}/new"
        os.mkdir(self.layers)
        os.mkdir(self.new)
        if self.image is None:
            kernel.mount(self.new, self.new, flags=kernel.MS_BIND)
            for name in os.listdir("/"):
                self._take(name)
        else:
            self._overlay(self.image, self.new)
            for name in _SHARED:
                os.makedirs(f"{self.new}/{name}", exist_ok=True)
                kernel.mount(f"/{name}", f"{self.new}/{name}", flags=kernel.MS_BIND | kernel.MS_REC)
        for source, target, read_only in sorted(mounts, key=lambda mount: mount[1].count("/")):
            self._bind(source, target, read_only)
        kernel.pivot_root(self.new)

    def _take(self, name: str) -> None:
        """One entry of the machine's root."""
        old, new = f"/{name}", f"{self.new}/{name}"
        if os.path.islink(old):
            os.symlink(os.readlink(old), new)
        elif os.path.isdir(old):
            os.mkdir(new)
            kernel.mount(old, new, flags=kernel.MS_BIND | kernel.MS_REC)
        else:
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY))
            kernel.mount(old, new, flags=kernel.MS_BIND)

    def _bind(self, source: str, target: str, read_only: bool) -> None:
        point = self._mount_point(target, directory=os.path.isdir(source))
        self._ours.append(point)
        try:
            kernel.mount(source, point, flags=kernel.MS_BIND | kernel.MS_REC)
            if read_only:
                kernel.mount("none", point, flags=kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
        except OSError as error:
            raise CannotMount(f"cannot mount {source} at {target}: {error.strerror}") from error

    def _mount_point(self, target: str, *, directory: bool) -> str:
        """Where a volume is mounted inside the new root, made if it is not there."""
        # A link is followed as the container will follow it, but what it leads to is inside the new root too.
        real = os.path.realpath(target) if self.image is None else target
        point = f"{self.new}/{real.strip('/')}"
        if os.path.lexists(point):
            return point
        parent = os.path.dirname(point)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        try:
            ours = any(f"{parent}/".startswith(f"{one}/") for one in self._ours)
            if parent != self.new and self.image is None and not ours:
                self._cover(parent)
            if parent == self.new:
                self._ours.append(f"{self.new}/{point[len(self.new) + 1 :].partition('/')[0]}")
            self._make(point, directory=directory)
        except OSError as error:
            raise CannotMount(f"there is no {target} and it cannot be made: {error.strerror}") from error
        return point

    def _cover(self, parent: str) -> None:
        """Put a layer in memory over a directory of the machine, so that something can be made in it."""
        kept = []
        for path in [path for path in _mounted() if path.startswith(f"{parent}/") and os.path.exists(path)]:
            self._layers += 1
            aside = f"{self.layers}/aside-{self._layers}"
            self._make(aside, directory=os.path.isdir(path))
            kernel.mount(path, aside, flags=kernel.MS_BIND)
            kept.append((aside, path))
        self._overlay(parent[len(self.new) :], parent)
        self._ours.append(parent)
        for aside, path in kept:
            kernel.mount(aside, path, flags=kernel.MS_BIND)

    @staticmethod
    def _make(path: str, *, directory: bool) -> None:
        """Make something to mount on."""
        if directory:
            os.makedirs(path)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))

    def _overlay(self, lower: str, target: str) -> None:
        self._layers += 1
        upper, work = f"{self.layers}/upper-{self._layers}", f"{self.layers}/work-{self._layers}"
        os.mkdir(upper)
        os.mkdir(work)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        kernel.mount("overlay", target, "overlay", options=options)
        # The root of an overlay has the mode of the directory above, which mkdir chose.
        os.chmod(target, os.stat(lower).st_mode & 0o7777)


def _mounted() -> list[str]:
    """The places where something is mounted, the outer ones first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return list(dict.fromkeys(line.split()[4].replace("\\040", " ") for line in file))
