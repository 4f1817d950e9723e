"""Programs on a real service: what becomes of their runs when they are killed or cancel, and what they are told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ccat_workflow_manager.client import Client
from ccat_workflow_manager.client.transport import AsyncTransport, Request
from ccat_workflow_manager.flow import FlowError, InputFile, OutputFile, TaskFailed, TaskState, WorkflowEngine
from tests.cli.conftest import Deployment
from tests.programs.running import on
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.whole

PROGRAM = """
import asyncio, os, signal, sys
from ccat_workflow_manager.client.transport import AsyncTransport
from ccat_workflow_manager.flow import TaskFailed, WorkflowEngine, factory

url, workflow, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
count, once = 0, AsyncTransport.once

async def counted(self, request):
    # A request is lost before it arrives, or its answer is.
    global count
    count += request.method == "POST"
    number = count if request.method == "POST" else 0
    if number and 2 * number == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = await once(self, request)
    if number and 2 * number + 1 == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

AsyncTransport.once = counted

async def main():
    backend = await factory.create_backend("service", config={"url": url, "backend": "local"})
    async with await WorkflowEngine.create(backend=backend) as flow:

        @flow.executable_task
        async def measure(scan):
            return ["sh", "-c", 'echo "$1" | sed "s/$/0/"', "sh", str(scan)]

        @flow.function_task
        def combine(*measured):
            return sum(int(each) for each in measured)

        @flow.executable_task
        async def publish(total):
            return ["echo", f"total ${{total}}", str(total)]

        async with flow.workflow_scope(workflow):
            print(await publish(combine(*[measure(scan) for scan in range(2)])), end="")
            try:
                await flow.executable_task(lambda: ["sh", "-c", "echo why >&2; exit 4"])()
            except TaskFailed as error:
                print(error.exit_code, error.stderr.strip(), error.attempts)

asyncio.run(main())
"""
TASKS = 4


def test_a_program_that_is_killed_goes_on(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    env = {**os.environ, **deployment.env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def started(kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(file), deployment.url, "night-7", str(kill_at)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)

    ends = [started(kill_at).returncode for kill_at in (2, 3, 5, 7)]
    assert ends == [-9, -9, -9, -9]
    last = started(0)
    assert last.stdout == "total ${total} 10\n4 why 1\n", last.stderr
    with Client(deployment.url) as client:
        runs = list(client.runs.list(label="flow.workflow:night-7"))
        assert len(runs) == TASKS
        again = started(0)
        # What had failed was tried again.
        assert again.stdout == "total ${total} 10\n4 why 2\n", again.stderr
        assert len(list(client.runs.list(label="flow.workflow:night-7"))) == TASKS


def on_service(
    deployment: Deployment,
    workflow: str,
    program: Callable[[WorkflowEngine], Awaitable[None]],
    work_dir: Path | None = None,
) -> Client:
    """Run a program on the service, as one workflow. Returns a client of the service."""
    token = (deployment.data_dir / "api-secret").read_text().strip()

    async def in_workflow(flow: WorkflowEngine) -> None:
        async with flow.workflow_scope(workflow):
            await program(flow)

    on(in_workflow, "service", work_dir=work_dir, url=deployment.url, token=token, backend="local")
    return Client(deployment.url, token)


def test_a_task_runs_while_its_run_does(deployment: Deployment) -> None:
    async def program(flow: WorkflowEngine) -> None:
        task = flow.executable_task(lambda: ["sleep", "1000"])()
        assert task.state is TaskState.PENDING
        await asyncio.to_thread(wait_until, lambda: task.state is TaskState.RUNNING, what="the task to run")
        task.cancel()

    with on_service(deployment, "state", program) as client:
        (run,) = client.runs.list(label="flow.workflow:state")
        assert client.runs.wait(run, timeout=PATIENCE).status == "CANCELLED"


def test_a_task_that_fails_is_as_on_other_backends(deployment: Deployment) -> None:
    async def program(flow: WorkflowEngine) -> None:
        with pytest.raises(TaskFailed, match="signal 9") as killed:
            await flow.executable_task(lambda: ["sh", "-c", "kill -9 $$"])()
        assert killed.value.exit_code == -9
        asks = {"max_attempts": 7, "ranks": 2}
        await flow.executable_task(task_description=asks)(lambda: ["sh", "-c", 'test "$WORKFLOW_CPU" = 2'])()

    with on_service(deployment, "failed", program) as client:
        assert {
            client.runs.get(run).step_runs[0]["max_attempts"] for run in client.runs.list(label="flow.workflow:failed")
        } == {1, 7}


def test_files_of_the_engine_do_not_travel_and_output_does(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("data")

    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task(capture_stdio=True, task_description={"max_attempts": 2})
        async def talk(*files: Any) -> list[str]:
            return ["sh", "-c", "echo out; echo err >&2; exit 3"]

        for file in (InputFile("in.txt"), OutputFile("out.txt")):
            with pytest.raises(FlowError, match=rf"talk.*{file}.*do not travel"):
                await talk(file)
        future = talk(InputFile(tmp_path / "in.txt"))
        with pytest.raises(TaskFailed):
            await future
        assert future.attempts == 2
        kept.extend([future.stdout, future.stderr])

    kept: list[str | None] = []
    on_service(deployment, "files", program, tmp_path).close()
    assert [Path(each or "").read_text() for each in kept] == ["out\n", "err\n"]


def test_a_cancel_reaches_a_run_that_is_being_created(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()
    once = AsyncTransport.once

    async def delayed(self: AsyncTransport, request: Request) -> httpx.Response:
        response = await once(self, request)
        if request.path == "/runs":
            arrived.set()
            await answered.wait()
        return response

    monkeypatch.setattr(AsyncTransport, "once", delayed)

    async def program(flow: WorkflowEngine) -> None:
        task = flow.executable_task(lambda: ["sleep", "1000"])()
        await arrived.wait()
        task.cancel()
        answered.set()

    with on_service(deployment, "early", program) as client:
        (run,) = client.runs.list(label="flow.workflow:early")
        assert client.runs.wait(run, timeout=PATIENCE).status == "CANCELLED"
