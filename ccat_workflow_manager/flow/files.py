"""Files that a task reads or writes, as arguments of its call.

All tasks of a program work in one directory, so files need no transport. The names let the engine check them: an
`InputFile` has to exist when its task starts, an `OutputFile` when its task has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ccat_workflow_manager.flow.errors import FlowError, WrongValue


class File:
    """The path of a file, relative to the working directory of the engine or absolute."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        path = os.fspath(file)
        if not path or not os.path.basename(path):
            raise WrongValue(f"{type(self).__name__}({path!r}) does not name a file")
        if "://" in path:
            raise WrongValue(f"{type(self).__name__}({path!r}): only paths are possible; fetch it in a task of its own")
        self.filepath = Path(path)
        self.filename = self.filepath.name

    def __fspath__(self) -> str:
        return str(self.filepath)

    def __str__(self) -> str:
        return str(self.filepath)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.filepath)!r})"


class InputFile(File):
    """A file that the task reads."""


class OutputFile(File):
    """A file that the task writes."""


def check(task: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any], directory: str, *, shared: bool) -> bool:
    """Look at the files of a task that is about to start. Returns whether outputs are to be looked for at its end.

    Raises FlowError for an input that is not there, and for a file in the directory of the engine if that is not
    `shared` with the program.
    """
    if lacking := missing(InputFile, arguments, keywords, directory):
        raise FlowError(f"task {task} needs {', '.join(lacking)}, which is not in {directory}")
    given = [*arguments, *keywords.values()]
    if not shared and (away := [each for each in _files(File, given) if not each.filepath.is_absolute()]):
        raise FlowError(
            f"task {task} cannot have {away[0]!r}: its program has a directory of its own, and files do not travel; "
            "pass what a program prints, or an absolute path that both see"
        )
    return bool(missing(OutputFile, arguments, keywords, directory))


def missing(kind: type[File], arguments: tuple[Any, ...], keywords: Mapping[str, Any], directory: str) -> list[str]:
    """Those of the files of this kind among the arguments that do not exist."""
    return [
        str(file)
        for file in _files(kind, [*arguments, *keywords.values()])
        if not os.path.exists(os.path.join(directory, file))
    ]


def _files(kind: type[File], values: list[Any]) -> Iterator[File]:
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, list | tuple | set):
            yield from _files(kind, list(value))
        elif isinstance(value, dict):
            yield from _files(kind, list(value.values()))
