"""Programs for AsyncFlow run with other imports only: its forms, its names, and its errors."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.flow import (
    BackendNotAvailable,
    FlowError,
    LocalExecutionBackend,
    NoopExecutionBackend,
    OutputFile,
    WorkflowEngine,
    factory,
    functions,
)
from ccat_workflow_manager.flow.errors import DependencyFailureError
from ccat_workflow_manager.flow.logging import init_default_logger
from tests.programs.running import on, run


@pytest.fixture
def logger_name() -> Iterator[str]:
    """The name of a logger that leaves no handler behind."""
    name = "tests.asyncflow"
    yield name
    for handler in list(logging.getLogger(name).handlers):
        logging.getLogger(name).removeHandler(handler)
        handler.close()


def test_an_engine_is_made_by_its_class() -> None:
    async def program() -> int:
        backend = await LocalExecutionBackend(ThreadPoolExecutor(1))
        flow = WorkflowEngine(backend=backend)

        @flow.executable_task
        async def task1() -> str:
            return "echo 5"

        @flow.function_task
        async def task2(t1_result: str) -> int:
            return int(t1_result) * 2

        result = await task2(await task1())
        await flow.shutdown()
        return int(result)

    assert run(program) == 10


def test_a_shell_runs_command_lines_on_its_local_backend(tmp_path: Path) -> None:
    async def program() -> None:
        backend = await LocalExecutionBackend.create(ThreadPoolExecutor(1))
        async with await WorkflowEngine.create(backend=backend, implicit_data=True, work_dir=tmp_path) as flow:

            @flow.executable_task
            async def append(name: str, *after: Any) -> str:
                return f'echo "{name}  {name}" >> log && echo $((1 + 1))'

            assert await append("b", append("a")) == "2\n"
            assert await flow.executable_task(lambda: ["echo", "$((1"])() == "$((1\n"
            with pytest.warns(UserWarning, match="shell"):
                assert await append("c", task_description={"shell": False}) == "c  c >> log && echo $((1 + 1))\n"
        assert (tmp_path / "log").read_text() == "a  a\nb  b\n"
        async with WorkflowEngine.create(backend=LocalExecutionBackend(), dry_run=True) as dry:
            await dry.executable_task(lambda: "a > b")()

    run(program)


def test_service_tasks_are_refused_in_words() -> None:
    async def program(flow: WorkflowEngine) -> None:
        assert await flow.function_task(service=False)(lambda: 1)() == 1
        with pytest.raises(FlowError, match="service"):
            flow.executable_task(service=True)(lambda: "true")

    on(program)


def test_a_function_that_needs_cloudpickle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(FlowError, match="install cloudpickle"):
        functions.packed("task", lambda: 1, (), {})


def test_keys_of_other_backends_are_told_what_they_are_called_here() -> None:
    async def program(flow: WorkflowEngine) -> None:
        for key, meant in (("env", "environment"), ("walltime", "time_hours"), ("mem", "memory_gb"), ("shel", "shell")):
            with pytest.raises(FlowError, match=f"did you mean '{meant}'"):
                flow.executable_task(task_description={key: 1})(lambda: "true")

    on(program)


def test_the_loop_goes_on_while_backends_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_in: list[threading.Thread] = []

    def look() -> dict[str, dict[str, Any]]:
        looked_in.append(threading.current_thread())
        return {}

    monkeypatch.setattr(factory, "list_available_backends", look)

    async def program() -> None:
        for name in (7, "nonsense"):
            with pytest.raises(BackendNotAvailable):
                await factory.create_backend(name)  # type: ignore[arg-type]
        with pytest.raises(BackendNotAvailable):
            await factory.create_backend("service", {"url": "http://127.0.0.1:1"})

    run(program)
    assert (len(looked_in), threading.main_thread() in looked_in) == (3, False)


def test_values_that_cannot_be_used_are_value_errors() -> None:
    async def program(flow: WorkflowEngine) -> None:
        commands: list[Any] = [None, "", "   ", []]
        for command in commands:
            with pytest.raises(ValueError, match=r"task.*empty|return"):
                await flow.executable_task(lambda command=command: command)()
        for name in ("", "directory/"):
            with pytest.raises(ValueError, match="file"):
                OutputFile(name)

    on(program)


def test_settings_of_a_backend_may_be_arguments() -> None:
    async def program() -> None:
        backend = await factory.create_backend("concurrent", {"max_workers": 7}, max_workers=2)
        async with WorkflowEngine.create(backend=backend):
            assert backend.places == 2  # type: ignore[attr-defined]

    run(program)


def test_a_failure_names_the_tasks_that_failed() -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.function_task
        async def failing_task1() -> None:
            raise ValueError("first")

        @flow.function_task
        async def failing_task2() -> None:
            raise RuntimeError("second")

        @flow.function_task
        async def good_task() -> int:
            return 1

        @flow.function_task
        async def dependent_task(*dependencies: Any) -> Any:
            return dependencies

        called = [failing_task1(), good_task(), failing_task2()]
        await asyncio.wait(called)
        with pytest.raises(DependencyFailureError) as caught:
            await dependent_task(*called)
        assert list(caught.value.failed_dependencies) == ["failing_task1", "failing_task2"]
        assert isinstance(caught.value.root_cause, ValueError)

    on(program)


def test_the_logger_of_its_examples(tmp_path: Path, logger_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made" / "program.log"
    logger = init_default_logger(
        logging.INFO, logger_name=logger_name, output_file=file, file_log_level="WARNING", use_colors=False
    )
    logger.debug("too much")
    logger.info("task %s runs", 1)
    logger.warning("slow")
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in shown] == ["runs", "slow"]
    assert file.read_text().splitlines() == shown[1:]


def test_workflows_of_two_engines_do_not_mix() -> None:
    async def program() -> None:
        async with (
            WorkflowEngine.create(backend=NoopExecutionBackend()) as first,
            WorkflowEngine.create(backend=NoopExecutionBackend()) as second,
            first.workflow_scope("wf-A"),
        ):
            ids = [each.function_task(lambda: None)().workflow_id for each in (first, second)]
        assert ids == ["wf-A", None]

    run(program)
