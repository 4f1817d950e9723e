"""Where everything of one attempt lies: `base/<pipeline>/<run>/<step>/<key>/attempt-<n>/`.

Paths are plain strings and directories are made with bare `os.mkdir`: this runs once for each of thousands of step runs
per second. Nothing here is ever shared by two attempts, and nothing is overwritten.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.failures import FailureReason

CONTAINER_ROOT = "/workflow"
RUN_VIEW = ".run"
"""The run's directory as the links under `upstream` and `workspace` see it, on the host and in the container alike."""


@dataclass(frozen=True, slots=True)
class AttemptDirs:
    """The paths of one attempt on the host."""

    run: str
    root: str
    input: str
    upstream: str
    """Links to the products of upstream steps."""
    places: str
    """Empty directories like those links, for a container to mount the products on."""
    workspace: str
    output_partial: str
    output: str
    config: str
    manifest: str
    logs: str
    stdout: str
    stderr: str
    scratch: str
    """/tmp and $HOME of a container: on disk, because the runtime's own are in memory and may end at 64 MB."""


@dataclass(frozen=True, slots=True)
class ProgramPaths:
    """The same places as the program sees them."""

    input: str
    upstream: str
    workspace: str
    output: str
    manifest: str
    logs: str


IN_CONTAINER = ProgramPaths(
    input=f"{CONTAINER_ROOT}/input",
    upstream=f"{CONTAINER_ROOT}/upstream",
    workspace=f"{CONTAINER_ROOT}/workspace",
    output=f"{CONTAINER_ROOT}/output",
    manifest=f"{CONTAINER_ROOT}/config/manifest.json",
    logs=f"{CONTAINER_ROOT}/logs",
)


def attempt_dirs(base_dir: str, pipeline: str, run_id: str, step: str, key: str, attempt: int) -> AttemptDirs:
    """The paths of one attempt. No name may lead out of `base_dir`, wherever it was checked before."""
    for name in (pipeline, run_id, step, key):
        if not name or "/" in name or "\0" in name or name == "." or name == "..":
            raise StagingError(FailureReason.STAGING_FAILED, f"{name!r} cannot be the name of a directory")
    run = f"{base_dir}/{pipeline}/{run_id}"
    root = f"{run}/{step}/{key}/attempt-{attempt}"
    return AttemptDirs(
        run=run,
        root=root,
        input=f"{root}/input",
        upstream=f"{root}/upstream",
        places=f"{root}/upstream.places",
        workspace=f"{root}/workspace",
        output_partial=f"{root}/output.partial",
        output=f"{root}/output",
        config=f"{root}/config",
        manifest=f"{root}/config/manifest.json",
        logs=f"{root}/logs",
        stdout=f"{root}/logs/stdout.log",
        stderr=f"{root}/logs/stderr.log",
        scratch=f"{root}/scratch",
    )


def program_paths(dirs: AttemptDirs, *, contained: bool) -> ProgramPaths:
    """What the program is told: fixed paths in a container, host paths without one."""
    if contained:
        return IN_CONTAINER
    return ProgramPaths(
        input=dirs.input,
        upstream=dirs.upstream,
        workspace=dirs.workspace,
        output=dirs.output_partial,
        manifest=dirs.manifest,
        logs=dirs.logs,
    )


def create(dirs: AttemptDirs, *, contained: bool) -> None:
    """Make the directories; those that an earlier, interrupted try has made stay as they are."""
    try:
        os.mkdir(dirs.root)
    except FileNotFoundError:
        os.makedirs(dirs.root, exist_ok=True)
    except FileExistsError:
        pass
    wanted = [dirs.input, dirs.upstream, dirs.workspace, dirs.config, dirs.logs]
    if contained:
        wanted.append(dirs.scratch)
    if not os.path.lexists(dirs.output):
        wanted.append(dirs.output_partial)
    for path in wanted:
        with suppress(FileExistsError):
            os.mkdir(path)
