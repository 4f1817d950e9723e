"""Detect the container runtime of this machine and what it supports.

spython asks for versions; it neither launches nor pulls (docs/decisions/0006-spython-does-not-launch.md).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import ConfigurationError, Fault
from ccat_workflow_manager.execution import spython_tools

SETTING = "CONTAINER_RUNTIME"
_PROGRAMS = ("apptainer", "singularity")
CHOICES = ("auto", *_PROGRAMS, "none")
FELL_BACK = (
    "there is neither Apptainer nor Singularity here: steps run as plain processes, without their images; install "
    "Apptainer, or set CONTAINER_RUNTIME to none if that is what you want"
)


class RuntimeKind(StrEnum):
    """The two runtimes differ in the prefix of their variables. `none` runs the command without a container.

    `backend` is for backends that start the container themselves.
    """

    APPTAINER = "apptainer"
    SINGULARITY = "singularity"
    NONE = "none"
    BACKEND = "backend"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime."""

    kind: RuntimeKind
    program: str = ""
    version: str = ""

    @property
    def contained(self) -> bool:
        return self.kind is not RuntimeKind.NONE


NO_RUNTIME = Runtime(RuntimeKind.NONE)
BY_BACKEND = Runtime(RuntimeKind.BACKEND)


@lru_cache(maxsize=16)
def detect(setting: str = "auto", *, allow_none: bool = False, search_path: str | None = None) -> Runtime:
    """The runtime of the setting CONTAINER_RUNTIME. With `allow_none`, `auto` falls back to no container."""
    if setting not in CHOICES:
        raise _fault(f"{setting!r} is not one of {', '.join(CHOICES)}")
    if setting == "none":
        return NO_RUNTIME
    for name in _PROGRAMS if setting == "auto" else (setting,):
        program = shutil.which(name, path=search_path)
        if program is not None:
            return _identify(program)
    if setting == "auto" and allow_none:
        return NO_RUNTIME
    wanted = "neither apptainer nor singularity is" if setting == "auto" else f"{setting} is not"
    raise _fault(f"{wanted} on the PATH; install Apptainer or choose another runtime")


def falls_back(setting: str, *, allow_none: bool) -> bool:
    """Whether `auto` has fallen back to no container, which the log has to show."""
    return setting == "auto" and allow_none and not any(map(shutil.which, _PROGRAMS))


def _fault(message: str) -> ConfigurationError:
    return ConfigurationError(faults=[Fault(SETTING, message)])


def _identify(program: str) -> Runtime:
    """Ask the program for its kind: `singularity` may be Apptainer."""
    try:
        text = spython_tools.version(program)
    except spython_tools.SpythonFailed as error:
        raise _fault(str(error)) from error
    name, found, version = text.partition(" version ")
    if not found:
        raise _fault(f"{program} --version says {text[:200]!r}")
    kind = RuntimeKind.APPTAINER if name.strip() == "apptainer" else RuntimeKind.SINGULARITY
    return Runtime(kind, program, version.strip())


@lru_cache(maxsize=16)
def supports_limits(runtime: Runtime) -> bool:
    """Whether `--memory` and `--cpus` work here: it depends on user, cgroup version, systemd and configuration.

    Only a trial shows that. The trial starts a program that does not exist: with working limits, that is what the
    runtime complains of.
    """
    if not runtime.program:
        return False
    with tempfile.TemporaryDirectory(prefix="ccat-limits-") as sandbox:
        for name in ("dev", "proc", "sys", "tmp", "etc", "root", "home", "var/tmp"):
            os.makedirs(f"{sandbox}/{name}")
        probe = [runtime.program, "exec", "--containall", "--memory", "64M", "--cpus", "1", sandbox, "/absent"]
        try:
            done = shell.run(probe, timeout=30, env={"PATH": os.environ.get("PATH", os.defpath), "HOME": sandbox})
        except shell.CommandError:
            return False
    return "stat /absent" in done.stderr and "cgroup" not in done.stderr
