"""Directories and files of the programs of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.flow import FlowError, InputFile, OutputFile, TaskFailed, WorkflowEngine
from tests.programs.running import on

EACH_LIMIT = pytest.mark.parametrize("limits", [{}, {"memory_gb": 1}], ids=["no limits", "limits"])


@EACH_LIMIT
@pytest.mark.parametrize("backend", ["concurrent", "local"])
def test_paths_that_a_program_makes_of_its_directory_stay(backend: str, limits: Any, tmp_path: Path) -> None:
    """`$PWD`, and what `cd ..` makes of it, are those of the engine, whatever directory the job has."""
    (tmp_path / "work" / "below").mkdir(parents=True)
    (tmp_path / "beside").mkdir()

    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task(task_description=limits)
        def write() -> list[str]:
            return ["sh", "-c", 'echo data > a.txt; echo "$PWD/a.txt"']

        @flow.executable_task(task_description=limits)
        def read(path: str) -> list[str]:
            return ["cat", path.strip()]

        @flow.executable_task(task_description=limits)
        def go(to: str) -> list[str]:
            return ["sh", "-c", 'cd "$1" && pwd', "sh", to]

        assert await read(write()) == "data\n"
        assert await go("../beside") == f"{tmp_path}/beside\n"
        assert await go("..", task_description={"cwd": "below"}) == f"{tmp_path}/work\n"
        with pytest.raises(TaskFailed, match=r"go\.000003.*work.absent"):
            await go(".", task_description={"cwd": "absent"})

    config = {"state_dir": str(tmp_path / "state")} if backend == "local" else {}
    on(program, backend, work_dir=tmp_path / "work", **config)


@EACH_LIMIT
def test_the_output_of_a_failed_program_stays_in_files(limits: Any, tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> tuple[str | None, str | None]:
        future = flow.executable_task(capture_stdio=True)(lambda: ["sh", "-c", "echo out; echo err >&2; exit 3"])(
            task_description=limits
        )
        with pytest.raises(TaskFailed) as caught:
            await future
        assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (3, "out\n", "err\n")
        return future.stdout, future.stderr

    files = on(program, work_dir=tmp_path)
    assert [Path(each or "").read_text() for each in files] == ["out\n", "err\n"]


def test_output_in_files(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> tuple[str, str]:
        @flow.executable_task(capture_stdio=True)
        def talk() -> list[str]:
            return ["sh", "-c", "echo out; echo err >&2"]

        future = talk()
        assert await future == future.stdout
        return str(future.stdout), str(future.stderr)

    out, err = map(Path, on(program, work_dir=tmp_path))
    assert out.parent == tmp_path
    assert (out.read_text(), err.read_text()) == ("out\n", "err\n")


def test_files_as_arguments(tmp_path: Path) -> None:
    async def program(flow: WorkflowEngine) -> None:
        @flow.executable_task
        async def write(target: OutputFile) -> list[str]:
            return ["sh", "-c", f"echo data > {target}"]

        @flow.executable_task
        async def read(source: InputFile, *after: Any) -> list[Any]:
            return ["cat", source]

        assert await read(InputFile("a.txt"), write(OutputFile("a.txt"))) == "data\n"
        with pytest.raises(FlowError, match=r"read\.000002 needs missing\.txt"):
            await read(InputFile("missing.txt"))

        @flow.executable_task
        async def forget(target: OutputFile) -> str:
            return "true"

        with pytest.raises(FlowError, match=r"forget\.000001 .* b\.txt"):
            await forget(OutputFile("b.txt"))

    on(program, work_dir=tmp_path)
