"""The directories of one attempt: `base/<pipeline>/<run>/<step>/<key>/attempt-<n>/`.

No two attempts share a directory, and nothing is overwritten. Paths are plain strings, and `os.mkdir` makes the
directories one by one: this runs for thousands of step runs per second.
"""

from __future__ import annotations

import grp
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

from ccat_workflow_manager.errors import ConfigurationError, StagingError
from ccat_workflow_manager.failures import FailureReason

CONTAINER_ROOT = "/workflow"
_NO_FILES: Mapping[str, str] = MappingProxyType({})
RUN_VIEW = ".run"
"""The link to the run's directory that the links in `upstream` and `workspace` lead through."""


@dataclass(frozen=True, slots=True)
class AttemptDirs:
    """The paths of one attempt on the host."""

    run: str
    root: str
    input: str
    """Links to the inputs, with the paths of the host."""
    input_places: str
    """What a container has at `/workflow/input`: empty files on which inputs are mounted, or links to mounts."""
    upstream: str
    """Links to the products of upstream steps."""
    mount_points: str
    """Empty directories with the names of those links, on which a container mounts the products."""
    workspace: str
    output_partial: str
    output: str
    config: str
    manifest: str
    logs: str
    stdout: str
    stderr: str
    code: str
    """The files of the definition. The step runs of a run that have the same files share the directory."""
    scratch: str
    """/tmp and $HOME of a container, on disk: those of the runtime are in memory, and may end at 64 MB."""


@dataclass(frozen=True, slots=True)
class ProgramPaths:
    """The same directories as the program sees them."""

    input: str
    upstream: str
    workspace: str
    output: str
    manifest: str
    logs: str
    code: str


IN_CONTAINER = ProgramPaths(
    input=f"{CONTAINER_ROOT}/input",
    upstream=f"{CONTAINER_ROOT}/upstream",
    workspace=f"{CONTAINER_ROOT}/workspace",
    output=f"{CONTAINER_ROOT}/output",
    manifest=f"{CONTAINER_ROOT}/config/manifest.json",
    logs=f"{CONTAINER_ROOT}/logs",
    code=f"{CONTAINER_ROOT}/code",
)


def attempt_dirs(
    base_dir: str, pipeline: str, run_id: str, step: str, key: str, attempt: int, files: Mapping[str, str] = _NO_FILES
) -> AttemptDirs:
    """The paths of one attempt, whose definition has these files: their SHA-256 by name.

    Raises StagingError for a name that would lead out of `base_dir`.
    """
    for name in (pipeline, run_id, step, key):
        if not name or "/" in name or "\0" in name or name == "." or name == "..":
            raise StagingError(FailureReason.STAGING_FAILED, f"{name!r} cannot be the name of a directory")
    run = f"{base_dir}/{pipeline}/{run_id}"
    root = f"{run}/{step}/{key}/attempt-{attempt}"
    return AttemptDirs(
        run=run,
        root=root,
        input=f"{root}/input",
        input_places=f"{root}/input.places",
        upstream=f"{root}/upstream",
        mount_points=f"{root}/upstream.places",
        workspace=f"{root}/workspace",
        output_partial=f"{root}/output.partial",
        output=f"{root}/output",
        config=f"{root}/config",
        manifest=f"{root}/config/manifest.json",
        logs=f"{root}/logs",
        stdout=f"{root}/logs/stdout.log",
        stderr=f"{root}/logs/stderr.log",
        code=f"{run}/.code/{sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:32]}" if files else "",
        scratch=f"{root}/scratch",
    )


def program_paths(dirs: AttemptDirs, *, contained: bool) -> ProgramPaths:
    """Fixed paths in a container, host paths without one."""
    if contained:
        return IN_CONTAINER
    return ProgramPaths(
        input=dirs.input,
        upstream=dirs.upstream,
        workspace=dirs.workspace,
        output=dirs.output_partial,
        manifest=dirs.manifest,
        logs=dirs.logs,
        code=dirs.code,
    )


def group_id(name: str) -> int | None:
    """The number of the group that RUN_GROUP names; None for no name. Raises ConfigurationError."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise ConfigurationError(f"RUN_GROUP: there is no group {name!r} on this machine") from None


def create(dirs: AttemptDirs, *, contained: bool, group: int | None = None) -> None:
    """Make the directories. Those that an interrupted try has made stay as they are.

    Only the user of the service and `group` get into the directory of a run: a program may leave files there that run
    with the rights of their owner.
    """
    try:
        os.mkdir(dirs.root)
    except FileNotFoundError:
        if not os.path.isdir(dirs.run):
            _make_private(dirs.run, group)
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


def _make_private(path: str, group: int | None) -> None:
    """Make a directory that is complete when it appears. What is made in it inherits its group."""
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    part = f"{parent}/.{name}.{os.getpid()}"
    with suppress(FileExistsError):
        os.mkdir(part, 0o700)
    if group is not None:
        os.chown(part, -1, group)
        os.chmod(part, 0o2750)
    try:
        os.rename(part, path)
    except OSError:
        os.rmdir(part)
        if not os.path.isdir(path):
            raise
