"""Lay out the inputs of an attempt: links on the host, and what a container mounts inputs on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from posixpath import basename, dirname

from ccat_workflow_manager.execution.command_builder import input_directories, mounts_inputs
from ccat_workflow_manager.execution.launch_spec import Progress, StepLaunch
from ccat_workflow_manager.execution.layout import CONTAINER_ROOT, AttemptDirs

_PER_PROGRESS = 256
_DIRECTORY, _FILE = "/", ""
"""What a container mounts an input on: an empty directory or an empty file. Any other text is the target of a link."""


def link_inputs(step: StepLaunch, dirs: AttemptDirs, progress: Progress, *, contained: bool) -> None:
    """Make `input` of an attempt, and `input.places` for a container. What an interrupted try left is replaced."""
    _lay_out(dirs.input, {each.name: each.path for each in step.inputs}, progress)
    if not contained:
        return
    os.makedirs(dirs.input_places, exist_ok=True)
    if mounts_inputs(step):
        places = {each.name: _DIRECTORY if each.is_directory else _FILE for each in step.inputs}
    else:
        views = {path: target.removeprefix(f"{CONTAINER_ROOT}/") for path, target in input_directories(step).items()}
        places = {
            each.name: f"{'../' * (each.name.count('/') + 1)}{views[dirname(each.path)]}/{basename(each.path)}"
            for each in step.inputs
        }
    _lay_out(dirs.input_places, places, progress)


def _lay_out(directory: str, wanted: Mapping[str, str], progress: Progress) -> None:
    parents = {""}
    for name in wanted:
        parent = dirname(name)
        while parent not in parents:
            parents.add(parent)
            parent = dirname(parent)
    _remove_others(directory, wanted, parents)
    for parent in sorted(parents - {""}):
        os.makedirs(f"{directory}/{parent}", exist_ok=True)
    for number, (name, target) in enumerate(wanted.items(), 1):
        if number % _PER_PROGRESS == 0:
            progress()
        path = f"{directory}/{name}"
        if target == _DIRECTORY:
            os.makedirs(path, exist_ok=True)
        elif target == _FILE:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444))
        elif not os.path.islink(path):
            os.symlink(target, path)


def _remove_others(directory: str, wanted: Mapping[str, str], parents: set[str]) -> None:
    """Remove what is not wanted, or is of another kind."""
    for where, directories, files in os.walk(directory, topdown=False):
        for name in [*files, *directories]:
            path = f"{where}/{name}"
            relative = path[len(directory) + 1 :]
            target = wanted.get(relative)
            if os.path.islink(path):
                if target is None or os.readlink(path) != target:
                    os.unlink(path)
            elif os.path.isdir(path):
                if relative not in parents and target != _DIRECTORY:
                    os.rmdir(path)
            elif target != _FILE:
                os.unlink(path)
