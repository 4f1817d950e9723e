"""One small real image for all tests: a shell and a few tools of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccat_workflow_manager.demo.sandbox import Sandbox, which_all
from ccat_workflow_manager.execution import runtime as runtimes

TOOLS = (
    *("sh", "cat", "env", "ls", "true", "printf", "touch", "head", "tr", "readlink", "find", "cp"),
    *("mkdir", "sleep", "test"),
)


def build_tools_image(directory: Path, *more: str) -> Path:
    """Build `tools.sif` in this directory, with these tools as well."""
    sandbox = Sandbox(directory / "sandbox")
    for tool in which_all((*TOOLS, *more)):
        sandbox.add_program(tool)
    path = directory / "tools.sif"
    sandbox.build(runtimes.detect("auto"), path)
    return path


@pytest.fixture(scope="session")
def tools_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tools_image(tmp_path_factory.mktemp("images"))
