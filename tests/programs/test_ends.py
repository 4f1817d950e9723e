"""How programs end: at a signal, without a shutdown, or with a loop that was closed. No process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.programs.running import lives
from tests.support.waiting import PATIENCE, wait_until

PROGRAM = """
import asyncio
from ccat_workflow_manager.flow import WorkflowEngine, factory

async def main():
    backend = await factory.create_backend("concurrent", config={{"max_workers": 2}})
    flow = await WorkflowEngine.create(backend=backend)

    @flow.executable_task
    async def endless():
        return ["sh", "-c", "echo $$ > pid; exec sleep 1000"]

    @flow.function_task
    async def ends_never():
        await asyncio.sleep(1000)

    futures = [endless(), ends_never()]
    try:
        {wait}
    finally:
        print("finally", flush=True)

{start}
"""
RUN = "asyncio.run(main())"
WAIT = "await asyncio.gather(*futures)"
UNTIL_STARTED = """
        import os
        while not (os.path.exists("pid") and os.path.getsize("pid")):
            await asyncio.sleep(0.01)"""


@contextmanager
def started(directory: Path, wait: str, start: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the program. It hears SIGHUP and SIGINT, also where the tests run in the background or below `nohup`."""
    (directory / "program.py").write_text(PROGRAM.format(wait=wait, start=start))
    program = subprocess.Popen(
        ["env", "--default-signal=HUP,INT", sys.executable, "program.py"],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    with program:
        try:
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_tasks_and_then_the_program(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, WAIT, RUN) as program:
        wait_until(lambda: lives(tmp_path / "pid"), 30, "the task to start")
        program.send_signal(number)
        out, err = program.communicate(timeout=PATIENCE)
    assert out == "finally\n", err
    assert program.returncode == -number, err
    assert not lives(tmp_path / "pid")


@pytest.mark.parametrize(
    "start",
    [RUN, "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()"],
    ids=["run", "loop closed"],
)
def test_a_program_that_forgets_the_shutdown_ends(start: str, tmp_path: Path) -> None:
    with started(tmp_path, UNTIL_STARTED, start) as program:
        out, err = program.communicate(timeout=PATIENCE)
    assert (out, program.returncode) == ("finally\n", 0), err
    assert not lives(tmp_path / "pid")
