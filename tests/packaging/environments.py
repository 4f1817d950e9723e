"""Environments that have nothing to do with the checkout: what they hold, and programs in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
Requirement: TypeAlias = tuple[str, tuple[str, ...]]
"""A distribution with its extras."""


def requirements(lines: Iterable[str], extras: Collection[str] = ()) -> Iterable[Requirement]:
    """What the metadata of a distribution require, with these of its extras."""
    for line in lines:
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", line)
        needed_by = re.findall(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        if match and (not needed_by or {normal(extra) for extra in needed_by} & {normal(extra) for extra in extras}):
            yield match[1], tuple((match[2] or "").replace(" ", "").split(",")) if match[2] else ()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """The names of all distributions that an installation of these has."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name, extras = waiting.pop()
        try:
            more = list(requirements(metadata.requires(name) or (), extras))
        except metadata.PackageNotFoundError:
            continue  # for another system or another Python
        if normal(name) not in found or extras:
            found.add(normal(name))
            waiting += [one for one in more if normal(one[0]) not in found]
    return found


def install(site: Path, names: Collection[str]) -> None:
    """Link these distributions, and no other, into a directory."""
    for name in names:
        for file in metadata.distribution(name).files or ():
            top = Path(file.parts[0])
            if top.name in ("..", "__pycache__") or top.suffix == ".pth":
                continue
            real = Path(str(file.locate())).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
            real = Path(str(real))
            if real.suffix not in ("", ".libs") or not real.is_dir() or (real / "__init__.py").exists():
                _link(site / top, real)
            elif len(file.parts) > 1:
                # A namespace that several distributions share: only this one's part of it.
                (site / top).mkdir(exist_ok=True)
                _link(site / top / file.parts[1], real / file.parts[1])


def _link(path: Path, real: Path) -> None:
    if real.exists() and not path.exists():
        path.symlink_to(real)


def run(*argv: str | Path, cwd: Path, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run without environment variables that could lead back to the checkout."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment |= {"XDG_DATA_HOME": str(cwd / "share"), "NO_COLOR": "1"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def pip(environment: Path, *arguments: str | Path) -> str:
    """What pip prints, which changes this environment and asks no registry."""
    python = environment / "bin" / "python"
    done = run(sys.executable, "-m", "pip", "--python", python, "--no-input", *arguments, cwd=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
