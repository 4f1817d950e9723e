"""Find and check the inputs of a step run: files of the host, below INPUT_ROOTS, with size and checksum.

Nothing is made here, so a step run whose inputs are refused leaves nothing behind. What the first attempt has found is
kept: a later attempt gets the same inputs, or fails with INPUT_CHANGED.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.definition.inputs import WantedInput, duplicate, is_url, name_problem
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.checksums import ChangedWhileRead, FileState, checksum_of, tree_checksum
from ccat_workflow_manager.execution.globbing import TooManyNames, expand
from ccat_workflow_manager.execution.launch_spec import Input, Progress
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.opener import OPEN_FILE
from ccat_workflow_manager.json_values import text_problem

Fetch = Callable[[str, str | None, Progress], Input]
"""Brings the object of a URL, if given with this SHA-256, to the host. Raises StagingError or JobDeferred."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How much one step run may have as inputs."""

    max_files: int = 10_000
    max_entries: int = 200_000


def find_inputs(
    wanted: Sequence[WantedInput],
    roots: InputRoots,
    limits: InputLimits,
    *,
    known: Sequence[Input] | None,
    fetch: Fetch,
    progress: Progress,
) -> list[Input]:
    """The inputs of a step run. Raises StagingError with the path and the reason.

    `known` are those of an earlier attempt, which must be the same.
    """
    sources: list[tuple[str, str, str | None]]
    if known is None:
        named = list(_named(wanted, roots, limits, progress))
        if problem := duplicate([name for name, _ in named]):
            _refuse(problem)
        sources = [(name, source, None) for name, source in named]
    else:
        sources = [(each.name, each.source, each.sha256) for each in known]
    left = limits.max_entries
    found = []
    for name, source, sha256 in sources:
        progress()
        each = fetch(source, sha256, progress) if is_url(source) else _local(source, roots, left, progress)
        left -= each.file_count
        found.append(Input(name, source, each.path, each.size, each.sha256, each.is_directory, each.file_count))
    for before, now in zip(known or (), found, strict=False):
        if (before.sha256, before.size, before.is_directory) != (now.sha256, now.size, now.is_directory):
            raise StagingError(
                FailureReason.INPUT_CHANGED,
                f"{now.source} is not what an earlier attempt read: it had {before.size} bytes and the checksum"
                f" {before.sha256[:12]}, now {now.size} and {now.sha256[:12]}",
            )
    return found


def _named(
    wanted: Sequence[WantedInput], roots: InputRoots, limits: InputLimits, progress: Progress
) -> Iterator[tuple[str, str]]:
    """The name below `/workflow/input` and the source of each input."""
    count = 0
    for each in wanted:
        sources = _matches(each, roots, limits, progress) if each.is_pattern else [each.source]
        count += len(sources)
        if count > limits.max_files:
            _refuse(f"there are more than {limits.max_files} inputs (INPUT_MAX_FILES)")
        for source in sources:
            name = each.name_of(source)
            if problem := text_problem(source) or name_problem(name):
                _refuse(f"{source!r} cannot be an input: its name {problem}")
            yield name, source


def _matches(wanted: WantedInput, roots: InputRoots, limits: InputLimits, progress: Progress) -> list[str]:
    try:
        found = expand(wanted.source, most=limits.max_files, most_names=limits.max_entries, progress=progress)
    except TooManyNames as error:
        _refuse(f"{wanted.source} {error}")
    if not found:
        raise StagingError(FailureReason.INPUT_MISSING, f"no file matches {wanted.source}")
    for path in found:
        if problem := roots.problem(path):
            _refuse(problem)
    return found


def _local(source: str, roots: InputRoots, most_entries: int, progress: Progress) -> Input:
    if problem := roots.problem(source):
        _refuse(problem)
    try:
        return _checked(source, roots, most_entries, progress)
    except FileNotFoundError as error:
        gone = f" (there is no {error.filename})" if error.filename not in (None, source) else ""
        raise StagingError(FailureReason.INPUT_MISSING, f"{source} does not exist{gone}") from error
    except NotADirectoryError as error:
        raise StagingError(FailureReason.INPUT_MISSING, f"{source} does not exist") from error
    except OSError as error:
        raise StagingError(FailureReason.INPUT_UNREADABLE, f"{source} cannot be read: {error.strerror}") from error
    except ChangedWhileRead as error:
        raise StagingError(FailureReason.INPUT_CHANGED, f"{source} changed while it was read") from error
    except TooManyNames as error:
        _refuse(f"{source} {error}")


def _checked(source: str, roots: InputRoots, most_entries: int, progress: Progress) -> Input:
    """Open what the path leads to and check what was opened: a link may have been put into the path meanwhile."""
    real = os.path.realpath(source, strict=True)
    if not is_below(real, roots):
        _refuse(f"{source} leads to {real}, which {roots.refusal}")
    if roots.is_closed(real):
        _refuse(f"{source} leads to {real}, which holds secrets")
    about = os.stat(real, follow_symlinks=False)
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        message = f"{source} is {_kind(about.st_mode)}, neither a file nor a directory"
        raise StagingError(FailureReason.INPUT_UNREADABLE, message)
    opened = os.open(real, OPEN_FILE)
    try:
        state = FileState.of(os.fstat(opened))
        if os.readlink(f"/proc/self/fd/{opened}") != real:
            raise ChangedWhileRead
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            tree = tree_checksum(opened, source, most_entries, partial(_may_hold, roots), progress)
            return Input("", source, real, tree.size, tree.sha256, True, tree.file_count)
        return Input("", source, real, state.size, checksum_of(opened, real, state, progress))
    finally:
        os.close(opened)


def _may_hold(roots: InputRoots, path: str) -> bool:
    """Whether a link in a directory may lead to this path."""
    return is_below(path, roots) and not roots.is_closed(path)


def is_below(real: str, roots: InputRoots) -> bool:
    """Whether a path without links is below the roots, whose links are resolved too."""
    if not roots.paths:
        return roots.free
    return any(real == root or real.startswith(f"{root.rstrip('/')}/") for root in map(os.path.realpath, roots.paths))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _refuse(message: str) -> NoReturn:
    raise StagingError(FailureReason.INPUT_REFUSED, message)
