"""The `ccat-wm up` of this user that runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ccat_workflow_manager.settings import PREFIX

_VARIABLE = f"{PREFIX}DATA_DIR"


def data_dir_of_running() -> Path | None:
    """The data directory of the only `up` that runs; None if the environment names one, or if none or several run."""
    if os.environ.get(_VARIABLE):
        return None
    found = set(running_data_dirs())
    return found.pop() if len(found) == 1 else None


def running_data_dirs() -> Iterator[Path]:
    """The data directories of all `up` of this user, as far as they name one."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        # Processes end while they are looked at, and those of others are not readable.
        with suppress(OSError, UnicodeDecodeError):
            arguments = (process / "cmdline").read_text().split("\0")[:-1]
            if process.stat().st_uid != os.geteuid() or (options := _options_of_up(arguments)) is None:
                continue
            given = _option(options, "--data-dir") or _variable((process / "environ").read_text())
            if given:
                yield (process / "cwd").readlink() / Path(given).expanduser()


def _options_of_up(arguments: Sequence[str]) -> Sequence[str] | None:
    """What follows `ccat-wm up` in a command line, perhaps of an interpreter."""
    for index, word in enumerate(arguments[:4]):
        if os.path.basename(word) == "ccat-wm" and arguments[index + 1 : index + 2] == ["up"]:
            return arguments[index + 2 :]
    return None


def _option(options: Sequence[str], name: str) -> str:
    for index, word in enumerate(options):
        if word == name:
            return options[index + 1] if index + 1 < len(options) else ""
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _variable(environment: str) -> str:
    return next((each.partition("=")[2] for each in environment.split("\0") if each.startswith(f"{_VARIABLE}=")), "")
