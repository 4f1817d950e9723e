"""A deployment for the tests of this directory: `ccat-wm up` in a separate process."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import invoke, process, variables
from tests.support.reaper import Reaper
from tests.support.waiting import wait_for

_URL = re.compile(r"API: (http://\S+)")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running deployment, and the environment variables with which commands find it."""

    url: str
    data_dir: Path
    env: dict[str, str]


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """`manager` and `worker` take the signals of their process, which here is that of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="package")
def deployment(reaper: Reaper) -> Iterator[Deployment]:
    data_dir = Path(tempfile.mkdtemp(prefix="ccat-wm-cli-"))
    reaper.remove(data_dir)
    env = variables(DATA_DIR=data_dir, HPC_BACKEND="noop", CONTAINER_RUNTIME="none", WORKERS=1, FOLLOW_SECONDS=1)
    env |= variables(LISTED_STEP_RUNS=1)  # so that commands have to ask for the others
    output = data_dir / "up.out"
    with process("up", "--port", "0", env=env, output=output) as up:
        reaper.watch(up.pid)

        def url() -> str | None:
            assert up.poll() is None, output.with_suffix(".stderr").read_text()
            found = _URL.search(output.read_text())
            return found[1] if found else None

        address = wait_for(url, timeout=60, what="the API")
        yield Deployment(address, data_dir, env | {"CCAT_WM_URL": address})
    assert up.returncode == 0, output.with_suffix(".stderr").read_text()


PIPELINE = """
name: greet
description: Say something for each name
parameters:
  type: object
  additionalProperties: false
  properties:
    names: {type: array, items: {type: string}, default: [ada, bob]}
    code: {type: integer, default: 0}
steps:
  - name: hello
    foreach: "${parameters.names}"
    command: [sh, -c, 'echo "hello $1"; echo "warned $1" >&2; exit "$2"', sh, "${item}", "${parameters.code}"]
  - name: sum
    depends_on: [hello]
    command: [sh, -c, 'echo done > "$WORKFLOW_OUTPUT_DIR/sum.txt"']
"""


@pytest.fixture
def greet(deployment: Deployment, tmp_path: Path) -> Path:
    """The file of an applied pipeline."""
    file = tmp_path / "greet.yaml"
    file.write_text(PIPELINE)
    applied = invoke("pipeline", "apply", str(file), env=deployment.env)
    assert applied.exit_code == 0, applied.output
    return file
