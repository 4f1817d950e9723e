"""A process that the zygote forks is like one that was started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ccat_workflow_manager import __version__
from tests.support import armed
from tests.support.waiting import PATIENCE
from tests.support.zygote import REPOSITORY, Forked, starts_alike, zygote

Start = Callable[..., Forked]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def start(tmp_path: Path, log: Path) -> Start:
    def start(*arguments: str, program: tuple[str, ...] = ("ccat-wm",), **more: str) -> Forked:
        env = {"PATH": os.environ["PATH"], "CCAT_WORKFLOW_MANAGER_DATA_DIR": str(tmp_path), "NO_COLOR": "1", **more}
        with log.open("ab") as file:
            return zygote().start([*program, *arguments], env=env, cwd=tmp_path, log=file.fileno())

    return start


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nope"], 2), (["run", "list"], 3)])
def test_exit_codes_and_output(start: Start, log: Path, arguments: list[str], code: int) -> None:
    assert start(*arguments, CCAT_WM_URL="http://127.0.0.1:1").wait(PATIENCE) == code
    assert (__version__ in log.read_text()) == (code == 0)


def test_it_has_a_directory_an_environment_and_a_session_of_its_own(start: Start, tmp_path: Path) -> None:
    waits = start("run", "submit", "--spec", "fifo", CCAT_WM_URL="http://127.0.0.1:1")
    assert waits.wait(PATIENCE) == 2  # there is none yet
    os.mkfifo(tmp_path / "fifo")
    waits = start("run", "submit", "--spec", "fifo", CCAT_WM_URL="http://127.0.0.1:1")
    with (tmp_path / "fifo").open("w"):  # once it has opened the other end
        assert Path(f"/proc/{waits.pid}/cwd").readlink() == tmp_path
        assert os.getsid(waits.pid) == waits.pid
        with pytest.raises(subprocess.TimeoutExpired):
            waits.wait(0)
        assert waits.poll() is None
        waits.kill()
        assert waits.wait(PATIENCE) == waits.poll() == -signal.SIGKILL
    waits.terminate()  # of one that has ended: nothing


def test_failpoints_are_armed_in_the_armed_program_only(start: Start, log: Path) -> None:
    assert start("--version", CCAT_WM_FAULTS="no plan").wait(PATIENCE) == 0
    assert start("--version", program=armed.PROGRAM, CCAT_WM_FAULTS="no plan").wait(PATIENCE) == 1
    assert "ConfigurationError" in log.read_text()


def test_an_interpreter_that_would_start_otherwise_is_not_forked() -> None:
    here = dict(os.environ)
    assert starts_alike(here)
    assert starts_alike({**here, "PYTHONPATH": str(REPOSITORY), "CCAT_WORKFLOW_MANAGER_WORKERS": "3"})
    assert not starts_alike({**here, "PYTHONPATH": "/elsewhere"})
    assert not starts_alike({**here, "TZ": "Asia/Tokyo"})
