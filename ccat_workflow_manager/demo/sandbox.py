"""Make a small container image from programs of this machine, without registry, package manager or network."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import WorkflowError
from ccat_workflow_manager.execution.runtime import Runtime

_DIRECTORIES = ("dev", "proc", "sys", "tmp", "etc", "root", "home", "var/tmp", "usr/bin", "usr/lib", "workflow")
_LIBRARY = re.compile(r"(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x[0-9a-f]+\)")
_BUILD_SECONDS = 300.0
_COMPRESSIONS: tuple[list[str], ...] = (["--mksquashfs-args", "-comp zstd -Xcompression-level 3"], [])
"""zstd is six times faster than gzip and as small, but not every mksquashfs has it."""


class ImageBuildFailed(WorkflowError):
    """The container image could not be built."""

    code = "image_build_failed"


class Sandbox:
    """A directory that becomes the root of a container."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in _DIRECTORIES:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib"):
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")

    def add_program(self, program: str, at: str | None = None) -> None:
        """Copy an executable of this machine and the libraries it is linked to."""
        self.copy(program, at or f"/usr/bin/{os.path.basename(program)}")
        self.add_libraries_of(program)

    def add_libraries_of(self, *binaries: str) -> None:
        """Copy the shared libraries of `binaries` to a directory that the loader searches first."""
        listing = shell.run(["ldd", *binaries], timeout=30).stdout
        libraries = {match["name"]: match["path"] for match in _LIBRARY.finditer(listing)}
        # The loader of this machine searches the directory of libc by default.
        trusted = next((os.path.dirname(path) for name, path in libraries.items() if name == "libc.so.6"), "/usr/lib")
        for name, path in libraries.items():
            self.copy(path, f"{trusted}/{name}" if name else path)

    def copy(self, source: str, at: str) -> None:
        """Copy one file and follow links. Its time is kept, because Python's caches depend on it."""
        target = self.root / at.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def build(self, runtime: Runtime, target: Path) -> None:
        """Make a SIF image of the directory. `target` appears only when it is complete."""
        partial = target.with_name(f".{target.name}.{os.getpid()}.sif")
        failure = ""
        try:
            for compression in _COMPRESSIONS:
                argv = [runtime.program, "--silent", "build", "--force", *compression, str(partial), str(self.root)]
                done = shell.run(argv, timeout=_BUILD_SECONDS)
                if done.returncode == 0:
                    partial.rename(target)
                    return
                failure = done.output_tail
        finally:
            partial.unlink(missing_ok=True)
        raise ImageBuildFailed(f"{runtime.program} could not build {target.name}: {failure}")


def which_all(names: Iterable[str]) -> list[str]:
    """Paths of those programs that exist on this machine."""
    return [path for path in map(shutil.which, names) if path is not None]
