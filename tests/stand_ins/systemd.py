"""A stand-in for systemctl and systemd-run: starts what the installed units say, as the user that they name.

Run by its name, as a program. It keeps no process alive and knows only what the units of deploy/systemd use.
"""

from __future__ import annotations

import os
import pwd
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

UNITS = Path("/etc/systemd/system")
RUNNING = Path(os.environ.get("STAND_IN_SYSTEMD", "/run/stand-in-systemd"))
_STOP_SECONDS = 240


def environment_of(path: str, user: str) -> dict[str, str]:
    """What a process gets: the file of a unit, and nothing of the caller's but the search path."""
    lines = Path(path).read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"PATH": os.environ["PATH"], "HOME": pwd.getpwnam(user).pw_dir, "USER": user, **given}


def as_user(user: str, argv: Sequence[str]) -> list[str]:
    who = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--init-groups", "--no-new-privs", *argv]


def read_unit(name: str) -> dict[str, str]:
    """The settings of [Service], by their names. `worker@1` is an instance of `worker@`."""
    stem, at, instance = name.removesuffix(".service").partition("@")
    lines = (UNITS / f"{stem}{at}.service").read_text().replace("%i", instance).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def start(name: str) -> None:
    unit = read_unit(name)
    with (RUNNING / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            as_user(unit["User"], shlex.split(unit["ExecStart"])),
            env=environment_of(unit["EnvironmentFile"], unit["User"]), cwd="/", umask=int(unit["UMask"], 8),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    (RUNNING / f"{name}.pid").write_text(str(process.pid))


def stop(name: str) -> None:
    pid = int((RUNNING / f"{name}.pid").read_text())
    process = os.pidfd_open(pid)
    signal.pidfd_send_signal(process, signal.SIGTERM)
    ended, _, _ = select.select([process], [], [], _STOP_SECONDS)
    os.close(process)
    if not ended:
        sys.exit(f"{name} does not end")


def systemctl(verb: str, *names: str) -> None:
    units = [name for name in names if name != "--now"]
    if verb not in ("daemon-reload", "enable", "start", "stop", "restart"):
        sys.exit(f"the stand-in knows no systemctl {verb}")
    for name in units:
        if verb in ("stop", "restart"):
            stop(name)
        if verb in ("start", "restart", "enable"):
            start(name)


def systemd_run(*arguments: str) -> int:
    properties = dict(each.removeprefix("--property=").split("=", 1) for each in arguments if "--property=" in each)
    argv = [each for each in arguments if not each.startswith("--p") and each != "--wait"]
    environment = environment_of(properties["EnvironmentFile"], properties["User"])
    return subprocess.run(as_user(properties["User"], argv), env=environment, cwd="/", check=False).returncode


if __name__ == "__main__":
    RUNNING.mkdir(exist_ok=True)
    if Path(sys.argv[0]).name == "systemd-run":
        sys.exit(systemd_run(*sys.argv[1:]))
    systemctl(*sys.argv[1:])
