"""A real container runtime, a small real image, and attempts below a temporary directory."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ccat_workflow_manager.execution import background
from ccat_workflow_manager.execution import runtime as runtimes
from ccat_workflow_manager.execution.launch_spec import StepLaunch
from ccat_workflow_manager.execution.runtime import NO_RUNTIME, Runtime
from ccat_workflow_manager.execution.staging import Staged, stage
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a pull or reads a large file waits for the end, however slow the machine is."""
    monkeypatch.setattr(background, "_SHORT_SECONDS", PATIENCE)


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return runtimes.detect("auto")


@pytest.fixture(scope="session")
def images(tools_image: Path) -> Path:
    """A directory with one image, `tools.sif`."""
    return tools_image.parent


@dataclass(frozen=True)
class Ended:
    staged: Staged
    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class StepRunner:
    """Stages and runs steps, with or without containers."""

    base: Path
    images: Path
    runtime: Runtime

    def stage(self, command: list[str], *, contents: Mapping[str, bytes] | None = None, **changes: Any) -> Staged:
        names: dict[str, Any] = {"pipeline": "p", "run_id": str(uuid4()), "step": "s", "key": "k", "attempt": 1}
        step = StepLaunch(command=command, **{**names, "image": "tools.sif", **changes})
        return stage(
            step,
            base_dir=str(self.base),
            sif_cache_dir=str(self.images),
            runtime=self.runtime,
            read_files=lambda digests: contents or {},
        )

    def run(self, command: list[str], **changes: Any) -> Ended:
        """Stage and launch, as a backend would: a clean environment, the workspace as working directory."""
        staged = self.stage(command, **changes)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/", **staged.launch.environment}
        done = subprocess.run(
            staged.launch.vector, env=environment, cwd=staged.dirs.workspace, capture_output=True, timeout=PATIENCE
        )
        return Ended(
            staged,
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "replace"),
        )


@pytest.fixture
def runner(tmp_path: Path, images: Path, runtime: Runtime) -> StepRunner:
    return StepRunner(tmp_path / "base", images, runtime)


@pytest.fixture
def bare_runner(tmp_path: Path) -> StepRunner:
    return StepRunner(tmp_path / "base", tmp_path, NO_RUNTIME)


@pytest.fixture
def fake_program(tmp_path: Path) -> Callable[[str, str], Runtime]:
    """Make a shell script that is called in place of a container runtime."""

    def make(name: str, script: str) -> Runtime:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
        path.chmod(0o755)
        return Runtime(runtimes.RuntimeKind.APPTAINER, str(path), "0")

    return make
