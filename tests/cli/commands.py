"""Runs `ccat-wm` in this process or in a separate one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner, Result

from ccat_workflow_manager.cli import app
from ccat_workflow_manager.settings import PREFIX
from tests.support.waiting import PATIENCE

PROGRAM = (sys.executable, "-c", "from ccat_workflow_manager.cli import main; main()")
QUIET = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}


@cache
def program() -> Any:
    """All commands. To build them takes longer than most of them take."""
    return typer.main.get_command(app)


def invoke(*arguments: str, env: Mapping[str, str] | None = None, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process."""
    runner, code = CliRunner(), 0
    with runner.isolation(input=stdin, env={**QUIET, **(env or {})}) as streams:
        try:
            program().main(list(arguments), prog_name="ccat-wm")
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        stdout, stderr, output = (stream.getvalue() for stream in streams)
    return Result(runner, stdout, stderr, output, None, code, None)


def answer(*arguments: str, env: Mapping[str, str] | None = None, code: int = 0) -> Any:
    """The JSON that a command prints with --json; stdout has nothing else."""
    result = invoke(*arguments, "--json", env=env)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refused(*arguments: str, env: Mapping[str, str] | None = None, code: int = 2) -> str:
    """The stderr of a command that ends with this code and prints nothing to stdout."""
    result = invoke(*arguments, env=env)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def variables(**settings: object) -> dict[str, str]:
    """Settings as environment variables."""
    return {PREFIX + name: str(value) for name, value in settings.items()}


@contextmanager
def process(
    *arguments: str, env: Mapping[str, str], output: Path, within: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A command as a separate process, ended on leaving. Its stderr goes to `output`.stderr. `within` starts it.

    It hears Ctrl-C, also where a shell has started the tests in the background, which ignores it.
    """
    argv = [*within, "/usr/bin/env", "--default-signal=INT", *PROGRAM, *arguments]
    with output.open("w") as stdout, output.with_suffix(".stderr").open("w") as stderr:
        started = subprocess.Popen(argv, env={**os.environ, **QUIET, **env}, stdout=stdout, stderr=stderr, text=True)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGINT)
            started.wait(PATIENCE)
