"""Programs of the shapes that users of AsyncFlow write."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.flow import (
    BackendNotAvailable,
    ConcurrentExecutionBackend,
    FlowError,
    LocalExecutionBackend,
    NoopExecutionBackend,
    WorkflowEngine,
    factory,
)
from ccat_workflow_manager.flow.definition import command_of
from tests.programs.running import on, run
from tests.support.waiting import PATIENCE

OF_A_POOL = [LocalExecutionBackend, ConcurrentExecutionBackend]
"""The backend of an executor of the program, under its two names."""


@pytest.mark.parametrize("backend_type", OF_A_POOL)
def test_a_function_uses_the_output_of_a_program(backend_type: type[LocalExecutionBackend]) -> None:
    async def program() -> int:
        backend = await backend_type(ThreadPoolExecutor())
        flow = await WorkflowEngine.create(backend=backend)

        @flow.executable_task
        async def measure() -> str:
            return "/bin/echo '5'"

        @flow.function_task
        async def scale(printed: str, factor: int) -> int:
            await asyncio.sleep(0)
            return int(printed.strip()) * factor

        measured = measure()
        result = await scale(measured, factor=4)
        assert await measured == "5\n"
        await flow.shutdown()
        return int(result)

    assert run(program) == 20


def test_functions_of_python_are_tasks() -> None:
    """Many of them tell nothing of their parameters."""

    async def program(flow: WorkflowEngine) -> None:
        hypotenuse, longer = flow.function_task(math.hypot), flow.function_task(functools.partial(max, 3))
        assert await longer(hypotenuse(3, 4)) == 5
        with pytest.raises(TypeError, match="real number"):
            await hypotenuse("three")

    on(program)


def test_methods_of_a_class_are_tasks() -> None:
    async def program(flow: WorkflowEngine) -> None:
        class Night:
            offset = 3

            @flow.function_task
            def add(self, number: int) -> int:
                return self.offset + number

            @flow.executable_task
            async def say(self, number: int) -> list[Any]:
                return ["echo", number]

            @flow.block
            async def twice(self, number: int) -> Any:
                return await self.say(self.add(self.add(number)))

        assert await Night().twice(1) == "7\n"
        assert await Night.add(Night(), 1) == 4

    on(program)


def test_futures_are_found_inside_containers() -> None:
    async def program(flow: WorkflowEngine) -> Any:
        @flow.function_task
        def number(value: int) -> int:
            return value

        @flow.function_task
        def total(pairs: dict[str, Any], *more: Any) -> Any:
            return pairs, more

        return await total({"a": [number(1), (number(2), {"b": number(3)})], "plain": "x"}, [number(4)], number(5))

    assert on(program) == ({"a": [1, (2, {"b": 3})], "plain": "x"}, ([4], 5))


def test_tasks_without_dependencies_run_side_by_side() -> None:
    async def program(flow: WorkflowEngine) -> None:
        barrier = threading.Barrier(3)

        @flow.function_task
        def meet() -> int:
            return int(barrier.wait(PATIENCE))

        assert sorted(await asyncio.gather(meet(), meet(), meet())) == [0, 1, 2]

    on(program, max_workers=3)


def test_programs_with_and_without_limits_share_the_places(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        def alone() -> list[str]:
            return ["sh", "-c", "mkdir busy && sleep 0.1 && rmdir busy"]

        limits = {"memory_gb": 1}
        await asyncio.gather(*[alone(task_description=each) for each in (limits, {}, limits, {})])

    on(program, work_dir=tmp_path, max_workers=1)


def test_a_backend_goes_on_to_another_engine_with_its_limits(tmp_path: Path) -> None:
    async def program() -> list[str]:
        backend, seen = await factory.create_backend("concurrent"), []
        for name in ("first", "second"):
            flow = await WorkflowEngine.create(backend=backend, work_dir=tmp_path / name)
            seen.append(await flow.executable_task(lambda: ["pwd", "-P"])(task_description={"memory_gb": 1}))
            await flow.shutdown(skip_execution_backend=name == "first")
        return seen

    assert run(program) == [f"{tmp_path.resolve() / name}\n" for name in ("first", "second")]


def test_blocks_contain_tasks_and_other_blocks_and_depend_on_each_other() -> None:
    async def program(flow: WorkflowEngine) -> list[str]:
        seen: list[str] = []

        @flow.function_task
        async def step(name: str, *after: Any) -> str:
            seen.append(name)
            return name

        @flow.block
        async def pair(name: str, *after: Any) -> str:
            first = step(f"{name}1")
            return str(await step(f"{name}2", first))

        @flow.block
        async def both(*after: Any) -> str:
            return str(await pair("b", pair("a")))

        assert await both(pair("z")) == "b2"
        return seen

    assert on(program) == ["z1", "z2", "a1", "a2", "b1", "b2"]


def test_workflows_have_ids_and_states() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        async def step(*after: Any) -> int:
            return 1

        @flow.block
        async def inside() -> Any:
            return step()

        async with flow.workflow_scope("night-7") as scope:
            assert scope == "night-7"
            tagged, other = step(), step(workflow_id="own")
        assert (tagged.workflow_id, other.workflow_id, step().workflow_id) == ("night-7", "own", None)
        assert tagged.state in ("PENDING", "RUNNING")
        assert await tagged == 1
        assert tagged.state == "DONE"
        async with flow.workflow_scope() as made:
            member = await inside()
        assert member.workflow_id == made

    on(program)


def test_two_backends_in_one_engine() -> None:
    async def program() -> None:
        threads = await LocalExecutionBackend(ThreadPoolExecutor(2), name="compute")
        unnamed = await ConcurrentExecutionBackend()
        async with WorkflowEngine.create(backend=[threads, NoopExecutionBackend(name="ai"), unnamed]) as flow:
            assert flow.backend is threads
            assert await flow.function_task(backend="concurrent")(add)(1, 2) == 3

            @flow.function_task(backend="compute")
            async def real() -> int:
                return 7

            @flow.executable_task(backend="ai")
            async def pretended(value: int) -> str:
                return f"/bin/false {value}"

            first = real()
            second = pretended(first)
            assert isinstance(await second, str)
            assert (first.backend, second.backend) == ("compute", "ai")
            with pytest.raises(FlowError, match=r"other.*compute, ai, concurrent"):
                flow.function_task(backend="other")(lambda: 1)

    run(program)


def test_a_dry_run_executes_nothing(tmp_path: Path) -> None:
    async def program() -> None:
        async with await WorkflowEngine.create(dry_run=True, work_dir=tmp_path) as flow:

            @flow.executable_task
            async def touch() -> list[str]:
                return ["touch", "made"]

            @flow.function_task
            def fail(*after: Any) -> None:
                raise AssertionError

            assert isinstance(await fail(touch()), str)

    run(program)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_ends_its_backends() -> None:
    async def program() -> None:
        executor = ThreadPoolExecutor()
        given = [await LocalExecutionBackend(executor), await factory.create_backend("concurrent")]
        async with await WorkflowEngine.create(backend=given, dry_run=True) as flow:
            assert isinstance(await flow.function_task(add)(1, 2), str)
        with pytest.raises(RuntimeError):
            executor.submit(add, 1, 2)

    run(program)


def add(left: int, right: int) -> int:
    return left + right


@pytest.mark.parametrize("backend_type", OF_A_POOL)
def test_functions_run_in_processes(backend_type: type[LocalExecutionBackend]) -> None:
    async def program() -> None:
        backend = await backend_type(ProcessPoolExecutor(1))
        async with await WorkflowEngine.create(backend=backend) as flow:
            plus = flow.function_task(add)
            offset = 10

            @flow.function_task
            async def shifted(value: int) -> int:
                return value + offset

            assert await shifted(plus(plus(1, 2), 3)) == 16

            @flow.function_task
            def fails() -> None:
                raise KeyError("lost")

            with pytest.raises(KeyError, match="lost"):
                await fails()

            @flow.executable_task
            def where() -> str:
                return "echo here"

            assert await where() == "here\n"

    run(program)


def crash_at_first(file: Path) -> str:
    if not file.exists():
        file.touch()
        os._exit(3)
    return "second"


def test_a_pool_outlives_the_death_of_its_processes(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        again = flow.function_task(task_description={"max_attempts": 2})(crash_at_first)
        future = again(tmp_path / "a")
        assert (await future, future.attempts) == ("second", 2)
        with pytest.raises(FlowError, match="has died"):
            await flow.function_task(crash_at_first)(tmp_path / "b")
        assert await flow.function_task(add)(1, 2) == 3

    on(program, executor_type="process", max_workers=1)


@pytest.mark.parametrize("backend", ["concurrent", "local"])
def test_programs_of_every_form(backend: str, tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        def line() -> str:
            return "printf '%s|' 'two words' $HOME '*' ';' '>'"

        assert await line() == "two words|$HOME|*|;|>|"

        @flow.executable_task
        async def vector(path: Path) -> list[Any]:
            return ["echo", path, 3, 1.5]

        assert await vector(tmp_path) == f"{tmp_path} 3 1.5\n"

        @flow.executable_task(task_description={"shell": True, "environment": {"GREETING": "hello"}})
        def shell() -> str:
            return "echo $GREETING > written; cat written"

        assert await shell() == "hello\n"
        assert (tmp_path / "written").read_text() == "hello\n"

        @flow.executable_task(task_description={"memory_gb": 0.5, "time_hours": 0.1})
        def limited() -> str:
            return "cat written"

        assert await limited() == "hello\n"

    config = {"state_dir": str(tmp_path / "state")} if backend == "local" else {}
    on(program, backend, work_dir=tmp_path, **config)
    assert not (tmp_path / ".ccat-flow").exists()


def test_backends_are_listed_and_an_unavailable_one_names_the_others() -> None:
    listed = factory.list_available_backends()
    assert listed["concurrent"]["available"] is True
    assert set(listed["slurm"]) == {"available", "reason", "installation_hint"}
    away = [name for name, about in listed.items() if not about["available"]]

    async def program() -> None:
        with pytest.raises(ValueError, match=r"'nonsense'.*concurrent"):
            await factory.create_backend("nonsense")
        for wrong in (None, 7, ["noop"]):
            with pytest.raises(BackendNotAvailable, match="concurrent"):
                await factory.create_backend(wrong)  # type: ignore[arg-type]
        with pytest.raises(FlowError, match="max_wrkers"):
            await factory.create_backend("concurrent", config={"max_wrkers": 1})
        for name in away:
            with pytest.raises(FlowError, match=rf"'{name}' is not available.*concurrent"):
                await factory.create_backend(name)

    run(program)


@pytest.mark.parametrize(
    ("line", "found"),
    [("echo $RANDOM", "$RANDOM"), ("echo x > file", ">"), ("a && b", "&&"), ('echo "$HOME"', "$HOME"),
     ("echo '$HOME > x'", None), ('echo "a > b; c"', None), ("echo \\$x 5$", None)],
)  # fmt: skip
def test_what_only_a_shell_would_do_is_noticed(line: str, found: str | None, recwarn: pytest.WarningsRecorder) -> None:
    command_of("task.000001", line, shell=False)
    assert [repr(found) in str(each.message) for each in recwarn] == ([True] if found else [])
    command_of("task.000001", line, shell=True)
    assert len(recwarn) == (1 if found else 0)


def test_there_are_no_prompt_tasks() -> None:
    async def program() -> None:
        async with WorkflowEngine.create(dry_run=True) as flow:
            with pytest.raises(FlowError, match="function_task"):
                flow.prompt_task(backend="ai")

    run(program)
