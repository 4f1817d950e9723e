"""Stage one attempt: its directories, links, image, manifest and command."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution import layout
from ccat_workflow_manager.execution.code_files import write_files
from ccat_workflow_manager.execution.command_builder import build_command, mounts_products
from ccat_workflow_manager.execution.images import PULL_TIMEOUT_SECONDS, resolve_image
from ccat_workflow_manager.execution.input_links import link_inputs
from ccat_workflow_manager.execution.last_words import file_system
from ccat_workflow_manager.execution.launch_spec import (
    Launch,
    Progress,
    ReadFiles,
    ResolvedImage,
    StepLaunch,
    UpstreamProducts,
    no_files,
    no_progress,
)
from ccat_workflow_manager.execution.layout import RUN_VIEW, AttemptDirs
from ccat_workflow_manager.execution.manifest import manifest, write_atomically
from ccat_workflow_manager.execution.runtime import Runtime, RuntimeKind, supports_limits
from ccat_workflow_manager.failures import FailureReason

_LINKS_PER_PROGRESS = 256
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Staged:
    """An attempt that is ready for its backend."""

    dirs: AttemptDirs
    launch: Launch
    image: ResolvedImage | None


def stage(
    step: StepLaunch,
    *,
    base_dir: str,
    sif_cache_dir: str,
    runtime: Runtime,
    read_files: ReadFiles = no_files,
    progress: Progress = no_progress,
    group: int | None = None,
    pull_seconds: float = PULL_TIMEOUT_SECONDS,
) -> Staged:
    """Make the directories, link the upstream products, find the image, write the files, build the command.

    Safe to repeat for the same attempt: directories and links stay, the manifest is replaced atomically.
    """
    dirs = layout.attempt_dirs(base_dir, step.pipeline, step.run_id, step.step, step.key, step.attempt, step.files)
    image: ResolvedImage | None = None
    if runtime.kind is RuntimeKind.BACKEND and step.image is not None:
        image = ResolvedImage(step.image, "")
    elif runtime.contained and step.image is not None:
        image = resolve_image(
            step.image, cache_dir=sif_cache_dir, runtime=runtime, progress=progress, pull_timeout=pull_seconds
        )
    limits = step.limits_by_runtime and supports_limits(runtime)
    launch = build_command(step, dirs, runtime, image, limits=limits)
    try:
        failpoints.around("files.directories", lambda: layout.create(dirs, contained=runtime.contained, group=group))
        if step.upstream:
            failpoints.around("files.links", lambda: _link_upstream(step, dirs, progress, contained=runtime.contained))
            if runtime.contained and mounts_products(step):
                failpoints.around("files.links", lambda: _make_mount_points(step, dirs))
        if step.inputs:
            failpoints.around("files.inputs", lambda: link_inputs(step, dirs, progress, contained=runtime.contained))
        if step.files:
            failpoints.around("files.code", lambda: _write_code(step, dirs, read_files))
        paths = layout.program_paths(dirs, contained=runtime.contained)
        content = manifest(step, paths, image)
        failpoints.around("files.manifest", lambda: write_atomically(dirs.manifest, content))
    except OSError as error:
        raise _staging_error(error, base_dir) from error
    return Staged(dirs, launch, image)


def _write_code(step: StepLaunch, dirs: AttemptDirs, read_files: ReadFiles) -> None:
    """Write the files of the definition, and a link to them for those who look at the attempt or copy it elsewhere."""
    write_files(dirs.code, step.files, read_files)
    _link(os.path.relpath(dirs.code, dirs.root), f"{dirs.root}/code")


class _Links:
    """Makes links that lead through `.run`, which is a link on the host and a read-only mount in a container.

    They are relative, so the same links work in both, and after the tree of the run was moved.
    """

    def __init__(self, dirs: AttemptDirs, progress: Progress) -> None:
        self._progress = progress
        self._made = 0
        _link(os.path.relpath(dirs.run, dirs.root), f"{dirs.root}/{RUN_VIEW}")

    def make(self, target: str, path: str) -> None:
        _link(target, path)
        self._made += 1
        if self._made % _LINKS_PER_PROGRESS == 0:
            self._progress()

    def mirror(self, source: str, target: str, path: str, whole: Collection[str], inside: str = "") -> None:
        """Make the directory `path` with the directories of `source` and a link for each of its files.

        Programs that walk through directories do not follow links to them. `whole` are directories that are one product
        each: they are linked. `target` leads from `path` to `source`.
        """
        if os.path.islink(path):
            os.unlink(path)
        os.makedirs(path, exist_ok=True)
        with os.scandir(source) as entries:
            found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        for name, is_directory in found.items():
            if is_directory and inside + name not in whole:
                self.mirror(f"{source}/{name}", f"../{target}/{name}", f"{path}/{name}", whole, f"{inside}{name}/")
            else:
                self.make(f"{target}/{name}", f"{path}/{name}")
        for stale in set(os.listdir(path)) - found.keys():
            # An upstream step run was repeated before this attempt is staged again.
            _remove(f"{path}/{stale}")


def _link_upstream(step: StepLaunch, dirs: AttemptDirs, progress: Progress, *, contained: bool) -> None:
    """Make `upstream/<step>/<key>` for published outputs: links, or without a container directories of links.

    A container that gets the products of a small fan-in as mounts does not see the links.
    """
    links = _Links(dirs, progress)
    steps = set()
    for source in step.upstream:
        if not source.products and source.directory.startswith(f"{dirs.run}/"):
            # One that a person has set to COMPLETED has published no directory.
            os.makedirs(source.directory, exist_ok=True)
        target, path = _inside_run(source, dirs), f"{dirs.upstream}/{source.step}/{source.key}"
        if source.step not in steps:
            steps.add(source.step)
            os.makedirs(f"{dirs.upstream}/{source.step}", exist_ok=True)
        if contained:
            links.make(f"../../{RUN_VIEW}/{target}", path)
        else:
            whole = {product.path for product in source.products if product.is_directory}
            links.mirror(source.directory, f"../../../{RUN_VIEW}/{target}", path, whole)
    for name, key in _workspace_views(step).items():
        _link(f"../upstream/{name}/{key}", f"{dirs.workspace}/{name}")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _make_mount_points(step: StepLaunch, dirs: AttemptDirs) -> None:
    """Make the directories on which the container mounts upstream products."""
    for source in step.upstream:
        os.makedirs(f"{dirs.mount_points}/{source.step}/{source.key}", exist_ok=True)


def _workspace_views(step: StepLaunch) -> dict[str, str]:
    """For older containers: `workspace/<step>` is the output of that step for the same key, or its only output."""
    by_step: dict[str, list[UpstreamProducts]] = {}
    for source in step.upstream:
        by_step.setdefault(source.step, []).append(source)
    views = {}
    for name, sources in by_step.items():
        chosen = sources[0] if len(sources) == 1 else next((s for s in sources if s.key == step.key), None)
        if chosen is not None:
            views[name] = chosen.key
    return views


def _inside_run(source: UpstreamProducts, dirs: AttemptDirs) -> str:
    start = f"{dirs.run}/"
    if not source.directory.startswith(start) or not os.path.isdir(source.directory):
        raise StagingError(
            FailureReason.INPUT_MISSING,
            f"the products of {source.step} ({source.key}) are not where they were published: {source.directory}",
        )
    return source.directory[len(start) :]


def _link(target: str, path: str) -> None:
    try:
        os.symlink(target, path)
    except FileExistsError:
        if not os.path.islink(path):
            raise
        if os.readlink(path) != target:
            # An upstream step run was repeated before this attempt is staged again.
            os.unlink(path)
            os.symlink(target, path)


def _staging_error(error: OSError, base_dir: str) -> StagingError:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _DISK_FULL:
        place, _ = file_system(str(error.filename or base_dir))
        return StagingError(FailureReason.DISK_FULL, f"No space was left while staging{where}: {place}")
    return StagingError(FailureReason.STAGING_FAILED, f"{error.strerror or error}{where}")
