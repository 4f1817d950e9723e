"""The directory of one job of a flow: what it starts, and what it leaves."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ccat_workflow_manager.flow import functions
from ccat_workflow_manager.flow.errors import TaskFailed
from ccat_workflow_manager.flow.execution import Work
from ccat_workflow_manager.flow.programs import OUTPUT_LIMIT, TAIL, working_directory
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import HPCBackend
from ccat_workflow_manager.lifecycle.models import Mount

STATE = ".ccat-flow"
"""The directory below that of the engine where jobs keep their files."""
_LINES = 1_000_000
_CALL, _RESULT = "call.pickle", "result.pickle"


@dataclass(frozen=True, slots=True)
class JobFiles:
    """One directory for one job, removed when the job has ended."""

    directory: str
    name: str
    work_dir: str
    command: Sequence[str]
    environment: Mapping[str, str]
    in_container: bool

    @classmethod
    def create(cls, work_dir: str, name: str, work: Work, backend: HPCBackend) -> JobFiles:
        """Raises FlowError for a function that cannot travel, and OSError."""
        where = working_directory(work, work_dir)
        directory = os.path.join(work_dir, STATE, name)
        for each in ("input", "output"):
            os.makedirs(os.path.join(directory, each))
        environment = {"PATH": os.environ.get("PATH", os.defpath), **work.options.environment}
        command = work.command
        if command is None:
            assert work.function is not None
            call = functions.packed(work.name, work.function, work.args, work.kwargs or {})
            Path(directory, _CALL).write_bytes(call)
            paths = (os.path.join(directory, each) for each in (_CALL, _RESULT))
            command = [sys.executable, "-m", "ccat_workflow_manager.flow.run_call", *paths]
            environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        files = cls(directory, name, work_dir, command, environment, backend.runs_images)
        if files.in_container:
            os.mkdir(files.workspace)
            environment.pop("PATH")
        else:
            # The task works where the program works; the scripts and logs of its job lie elsewhere.
            # `$PWD` names that directory too: a path below the link would end with the job.
            os.symlink(where, files.workspace)
            environment["PWD"] = where
        return files

    @property
    def workspace(self) -> str:
        return os.path.join(self.directory, "workspace")

    @property
    def input(self) -> str:
        return os.path.join(self.directory, "input")

    @property
    def output(self) -> str:
        return os.path.join(self.directory, "output")

    @property
    def mounts(self) -> Sequence[Mount]:
        return [Mount(path, path, True) for path in (self.workspace, self.output)] if self.in_container else ()

    def result(self, backend: HPCBackend, job_id: str, work: Work) -> object:
        """The result of a job that has completed. Raises what a function raised, TaskFailed and OSError."""
        if work.command is None:
            return functions.unpacked(Path(self.directory, _RESULT).read_bytes())
        if work.capture_stdio:
            return self.keep(backend, job_id, work)
        logs = AttemptFiles.of(self.workspace, self.name)
        size = os.path.getsize(logs.stdout) if os.path.exists(logs.stdout) else 0
        if size > OUTPUT_LIMIT:
            why = (
                f"it printed {size / 2**20:.0f} MB, and a result holds {OUTPUT_LIMIT // 2**20}; use capture_stdio=True"
            )
            raise TaskFailed(work.name, why, exit_code=0, attempts=work.attempt)
        if os.path.exists(logs.stdout):
            return Path(logs.stdout).read_bytes().decode("utf-8", "replace")
        return backend.tail_logs(job_id, stream="stdout", lines=_LINES)

    def keep(self, backend: HPCBackend, job_id: str, work: Work) -> str:
        """Move the logs beside the files of the program. Returns the path of stdout."""
        logs = AttemptFiles.of(self.workspace, self.name)
        kept = [os.path.join(self.work_dir, f"{work.name}.{stream}") for stream in ("stdout", "stderr")]
        for source, stream, target in zip((logs.stdout, logs.stderr), ("stdout", "stderr"), kept, strict=True):
            if os.path.exists(source):
                os.replace(source, target)
            else:
                Path(target).write_text(backend.tail_logs(job_id, stream=stream, lines=_LINES))
        work.future.stdout, work.future.stderr = kept
        return kept[0]

    def tails(self, backend: HPCBackend, job_id: str) -> tuple[str, str]:
        """The ends of what a failed job printed."""
        out, err = (backend.tail_logs(job_id, stream=stream, lines=_LINES) for stream in ("stdout", "stderr"))
        return out[-TAIL:], err[-TAIL:]

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        with suppress(OSError):  # other jobs still use it
            os.rmdir(os.path.dirname(self.directory))
