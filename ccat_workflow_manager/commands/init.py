"""`ccat-wm init`: the first files of a pipeline."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ccat_workflow_manager.commands.exit_codes import WrongUsage

_TEMPLATES = Path(__file__).parent / "stand-alone"
_IGNORED = "# What `ccat-wm run download` copies, and what Python writes\nresults/\n*.part\n__pycache__/\n"


class Shape(StrEnum):
    """The pipelines that `init` can write."""

    FILES = "files"
    CHAIN = "chain"
    SWEEP = "sweep"


_SCRIPTS = {Shape.FILES: "measure.py", Shape.CHAIN: "reduce_scan.py", Shape.SWEEP: "fit.py"}


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Default: here.")] = Path(),
    shape: Annotated[
        Shape,
        typer.Option(
            help="files: one script over many files; chain: a chain for each scan, with a map; sweep: many parameters."
        ),
    ] = Shape.FILES,
    name: Annotated[str | None, typer.Option(help="Name of the pipeline (default: that of DIR).")] = None,
) -> None:
    """Write a commented pipeline, its script and a .gitignore, to begin with. It runs as it is.

    Example:  ccat-wm init my-first --shape chain

    Exit codes:  0 written,  2 a file of this name exists, or DIR may not be written.
    """
    from ccat_workflow_manager.definition.spec import PIPELINE_NAME

    pipeline = name if name is not None else _name_of(directory)
    if not re.fullmatch(PIPELINE_NAME, pipeline):
        raise WrongUsage(f"--name must be made of lower-case letters, digits and -, at most 63, not {pipeline!r}")
    texts = files_of(shape, pipeline)
    try:
        for each in texts:
            if (directory / each).exists() and each != ".gitignore":
                raise WrongUsage(f"{directory / each} exists; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        for each, text in texts.items():
            if not (directory / each).exists():
                (directory / each).write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongUsage(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    file = shlex.quote(str(directory / "pipeline.yaml"))
    typer.echo(f"wrote {', '.join(texts)} in {directory}; next:")
    typer.echo(f"  ccat-wm pipeline apply {file}\n  ccat-wm run submit {pipeline} --watch")


def files_of(shape: Shape, pipeline: str) -> dict[str, str]:
    """The texts of the files by their names."""
    definition = (_TEMPLATES / f"{shape}.yaml").read_text(encoding="utf-8")
    script = _SCRIPTS[shape]
    return {
        "pipeline.yaml": re.sub(r"\bNAME\b", pipeline, definition),
        script: (_TEMPLATES / script).read_text(encoding="utf-8"),
        ".gitignore": _IGNORED,
    }


def _name_of(directory: Path) -> str:
    """The name of the directory, as far as a pipeline can have it."""
    words = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")
    return words[:63].rstrip("-") or "my-pipeline"
