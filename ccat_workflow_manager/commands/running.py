"""The `ccat-wm up` or `ccat-wm demo` of this user that runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ccat_workflow_manager.settings import PREFIX

_VARIABLE = f"{PREFIX}DATA_DIR"


class Running(NamedTuple):
    """A deployment that runs."""

    command: str
    data_dir: Path


def only_running() -> Running | None:
    """The only deployment that runs; None if the environment names a directory, or if none or several run."""
    if os.environ.get(_VARIABLE):
        return None
    found = set(running())
    return found.pop() if len(found) == 1 else None


def running() -> Iterator[Running]:
    """All `up` and `demo` of this user, as far as their directories are known."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        # Processes end while they are looked at, and those of others are not readable.
        with suppress(OSError, UnicodeDecodeError):
            arguments = (process / "cmdline").read_text().split("\0")[:-1]
            if process.stat().st_uid != os.geteuid() or (found := _command(arguments)) is None:
                continue
            command, options = found
            environment = _variables((process / "environ").read_text())
            given = _option(options, "--data-dir") or _default(command, environment)
            if given:
                yield Running(command, (process / "cwd").readlink() / Path(given).expanduser())


def _command(arguments: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """`up` or `demo`, and what follows it in a command line of `ccat-wm`, perhaps of an interpreter."""
    for index, word in enumerate(arguments[:4]):
        command = next(iter(arguments[index + 1 : index + 2]), "")
        if os.path.basename(word) == "ccat-wm" and command in ("up", "demo"):
            return command, arguments[index + 2 :]
    return None


def _default(command: str, environment: Mapping[str, str]) -> str:
    """The directory without --data-dir. The demo has its own, whatever DATA_DIR says."""
    return str(demo_data_dir(environment)) if command == "demo" else environment.get(_VARIABLE, "")


def demo_data_dir(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_DATA_HOME") or Path(environment.get("HOME") or Path.home(), ".local", "share")
    return Path(home, "ccat-wm-demo")


def _option(options: Sequence[str], name: str) -> str:
    for index, word in enumerate(options):
        if word == name:
            return options[index + 1] if index + 1 < len(options) else ""
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _variables(environment: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in environment.split("\0") if "=" in each)
