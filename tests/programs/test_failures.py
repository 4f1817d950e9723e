"""What goes wrong in a program: every error names the task, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.flow import BackendRejected, DependencyFailed, FlowError, TaskFailed, WorkflowEngine, factory
from tests.programs.running import lives, on, run, until_lives
from tests.support.waiting import wait_until


@pytest.mark.parametrize("backend", ["concurrent", "local"])
def test_a_failed_program_shows_how(backend: str, tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        async def broken() -> list[str]:
            return ["sh", "-c", "echo before; echo reason >&2; exit 3"]

        with pytest.raises(TaskFailed, match=r"broken\.000001") as caught:
            await broken()
        error = caught.value
        assert (error.exit_code, error.stdout, error.stderr, error.attempts) == (3, "before\n", "reason\n", 1)

        @flow.executable_task
        async def absent() -> str:
            return "no-such-program --now"

        with pytest.raises(TaskFailed, match=r"no-such-program"):
            await absent()

    config = {"state_dir": str(tmp_path / "state")} if backend == "local" else {}
    on(program, backend, work_dir=tmp_path, **config)


def test_a_task_that_the_backend_can_never_run_is_rejected(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        with pytest.raises(BackendRejected, match="CPUs"):
            await flow.executable_task(task_description={"cpu": 1_000_000})(lambda: ["true"])()

    on(program, "local", work_dir=tmp_path, state_dir=str(tmp_path / "state"))


def test_failures_reach_dependents_with_their_causes() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        async def fail() -> None:
            raise ValueError("no signal")

        @flow.function_task
        async def use(value: Any) -> Any:
            return value

        first = fail()
        second = use([first])
        third = use(second)
        with pytest.raises(DependencyFailed, match=r"use\.000002.*use\.000001.*no signal") as caught:
            await third
        assert isinstance(caught.value.root_cause, ValueError)
        assert isinstance(caught.value.__cause__, DependencyFailed)
        assert caught.value.__cause__.__cause__ is first.exception()
        assert [each.state for each in (first, second, third)] == ["FAILED"] * 3
        with pytest.raises(DependencyFailed):
            await use(first)
        with pytest.raises(ValueError, match="no signal"):
            await first

    on(program)


def test_attempts_are_repeated_as_often_as_allowed(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task(task_description={"max_attempts": 3})
        def third_time() -> list[str]:
            return ["sh", "-c", 'echo x >> tries; test "$(wc -l < tries)" -ge 3']

        future = third_time()
        assert await future == ""
        assert future.attempts == 3
        with pytest.raises(TaskFailed) as caught:
            await flow.executable_task(lambda: "false")(task_description={"max_attempts": 2})
        assert caught.value.attempts == 2

    on(program, work_dir=tmp_path)


@pytest.mark.parametrize("limits", [{}, {"memory_gb": 1, "time_hours": 1}], ids=["no limits", "limits"])
def test_cancelling_ends_processes_and_dependents(limits: dict[str, Any], tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task(task_description=limits)
        def endless() -> list[str]:
            return ["sh", "-c", "echo $$ > pid; exec sleep 1000"]

        @flow.function_task
        def after(value: Any) -> Any:
            return value

        running = endless()
        waiting = after(running)
        await until_lives(tmp_path / "pid")
        await asyncio.to_thread(wait_until, lambda: running.state == "RUNNING", what="the state RUNNING")
        assert running.cancel()
        assert running.state == "CANCELLED"
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert waiting.state == "CANCELLED"
        assert not running.cancel()
        await asyncio.to_thread(wait_until, lambda: not lives(tmp_path / "pid"), what="the end of the process")

    on(program, work_dir=tmp_path)


def test_cancelling_a_block_cancels_what_it_has_called() -> None:
    async def program(flow: WorkflowEngine) -> None:
        started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        @flow.function_task
        async def long() -> None:
            await asyncio.sleep(1000)

        @flow.block
        async def outer() -> None:
            task = long()
            started.set_result(task)
            await task

        block = outer()
        task = await started
        block.cancel()
        assert (block.state, task.state) == ("CANCELLED", "CANCELLED")

    on(program)


def test_shutdown_leaves_no_process_and_can_wait(tmp_path: Path) -> None:
    async def program() -> None:
        flow = await WorkflowEngine.create(
            backend=await factory.create_backend("concurrent", {"max_workers": 2}), work_dir=tmp_path
        )

        @flow.executable_task
        def escape() -> list[str]:
            # A child of a session of its own, which ignores the request to end.
            return ["sh", "-c", "setsid sh -c 'trap \"\" TERM; echo $$ > pid; sleep 1000; :' & wait"]

        future = escape()
        await until_lives(tmp_path / "pid")
        await flow.shutdown()
        await flow.shutdown()
        assert future.cancelled()
        with pytest.raises(FlowError, match="escape"):
            escape()

        waiting = await WorkflowEngine.create()
        done = waiting.executable_task(lambda: "echo done")()
        await waiting.shutdown(wait=True)
        assert done.result() == "done\n"

    run(program)
    assert not lives(tmp_path / "pid")


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "lack a return"),
        (17, "17"),
        ("", "empty"),
        ([], "empty"),
        ("echo 'open", "cannot be split"),
        ([["nested"]], "nested"),
        ({"a": 1}, "'a'"),
        (b"true", "true"),
        ("echo \0", "NUL"),
    ],
)
def test_a_command_of_the_wrong_type_names_its_task(returned: Any, words: str) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        async def wrong() -> Any:
            return returned

        with pytest.raises(FlowError, match=rf"wrong\.000001.*{words}"):
            await wrong()

    on(program)


def test_wrong_calls_fail_at_once() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        async def one(value: Any) -> Any:
            return value

        with pytest.raises(TypeError, match="one"):
            one()
        with pytest.raises(FlowError, match=r"one.*memory_bg.*memory_gb"):
            one(1, task_description={"memory_bg": 1})
        with pytest.raises(FlowError, match=r"one.*cpu"):
            one(1, task_description={"cpu": "many"})

        async def loose() -> None: ...

        with pytest.raises(FlowError, match=r"one.*loose"):
            one(loose())
        circular: list[Any] = []
        circular.append(circular)
        with pytest.raises(FlowError, match=r"one.*themselves"):
            one(circular)
        async with await WorkflowEngine.create() as other:
            foreign = other.function_task(lambda: 1)()
            with pytest.raises(FlowError, match=r"one.*another engine"):
                one(foreign)
        outcome: list[BaseException] = []

        def elsewhere() -> None:
            try:
                one(1)
            except FlowError as error:
                outcome.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "one" in str(outcome[0])

    on(program)


def test_wrong_definitions_fail_at_once() -> None:
    async def program(flow: WorkflowEngine) -> None:
        with pytest.raises(FlowError, match=r"function_task.*5"):
            flow.function_task(5)  # type: ignore[call-overload]
        with pytest.raises(FlowError, match=r"colour"):
            flow.function_task(colour="red")

        async def generator() -> Any:
            yield 1

        with pytest.raises(FlowError, match=r"generator"):
            flow.function_task(generator)
        with pytest.raises(FlowError, match=r"plain.*async def"):

            @flow.block
            def plain() -> None: ...

    on(program)
    with pytest.raises(FlowError, match=r"summed.*local.*executable"):
        on(_defines_a_function, "local")


async def _defines_a_function(flow: WorkflowEngine) -> None:
    @flow.function_task
    def summed() -> int:
        return 1


def test_a_block_that_waits_for_itself() -> None:
    async def program(flow: WorkflowEngine) -> None:
        made: dict[str, Any] = {}

        @flow.function_task
        async def use(value: Any) -> Any:
            return value

        @flow.block
        async def awaits() -> None:
            await made["awaits"]

        @flow.block
        async def passes() -> None:
            await use([made["passes"]])

        made["awaits"] = awaits()
        with pytest.raises(FlowError, match=r"awaits\.000001"):
            await made["awaits"]
        made["passes"] = passes()
        with pytest.raises(FlowError, match=r"use.*passes\.000001"):
            await made["passes"]

        @flow.block
        async def left() -> None:
            await use(made["right"])

        @flow.block
        async def right() -> None:
            await use(made["left"])

        made["left"], made["right"] = left(), right()
        outcomes = await asyncio.gather(made["left"], made["right"], return_exceptions=True)
        assert any("left.000001" in str(each) or "right.000001" in str(each) for each in outcomes)

    on(program)


def test_what_cannot_travel_to_a_process() -> None:
    async def program(flow: WorkflowEngine) -> None:
        lock = threading.Lock()

        @flow.function_task
        def locked(value: Any = None) -> Any:
            return lock if value is None else value

        with pytest.raises(FlowError, match=r"locked\.000001.*locked"):
            await locked()

        @flow.function_task
        def plain(value: Any = None) -> Any:
            return value

        with pytest.raises(FlowError, match=r"plain\.000001.*argument 1.*lock"):
            await plain(lock)

        @flow.function_task
        def returns_lock() -> Any:
            import threading

            return threading.Lock()

        with pytest.raises(FlowError, match=r"lock"):
            await returns_lock()

        @flow.function_task
        def crash() -> None:
            os._exit(3)

        with pytest.raises(FlowError, match=r"crash\.000001"):
            await crash()

    on(program, executor_type="process", max_workers=1)


def test_a_function_that_ends_the_program_does_not() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(FlowError, match=r"leave\.000001.*SystemExit"):
            await leave()
        assert await flow.function_task(lambda: 1)() == 1

    on(program, max_workers=1)


def test_a_loop_that_is_closed_under_the_engine(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    flow = loop.run_until_complete(WorkflowEngine.create(work_dir=tmp_path).__aenter__())
    endless = flow.executable_task(lambda: ["sh", "-c", "echo $$ > pid; exec sleep 1000"])

    async def begin() -> None:
        endless()
        await until_lives(tmp_path / "pid")

    loop.run_until_complete(begin())
    loop.close()
    with pytest.raises(FlowError, match="closed"):
        endless()

    async def later() -> None:
        endless()

    with pytest.raises(FlowError, match="closed"):
        asyncio.run(later())
    flow.abandon()
    assert not lives(tmp_path / "pid")


def test_a_backend_serves_one_engine() -> None:
    async def program() -> None:
        backend = await factory.create_backend("concurrent")
        async with WorkflowEngine.create(backend=backend):
            with pytest.raises(FlowError, match="concurrent"):
                await WorkflowEngine.create(backend=backend)
        with pytest.raises(FlowError, match="await"):
            await WorkflowEngine.create(backend=factory.create_backend("noop"))  # type: ignore[arg-type]
        with pytest.raises(FlowError, match="two backends"):
            await WorkflowEngine.create(
                backend=[await factory.create_backend("noop"), await factory.create_backend("noop")]
            )

    run(program)
