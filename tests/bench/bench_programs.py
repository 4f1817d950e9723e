"""Programs as workflows: tasks a second, held against RADICAL AsyncFlow with its own local backend.

AsyncFlow is used if ASYNCFLOW_PYTHON names a Python that has it; it is none of our dependencies.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ccat_workflow_manager import shell
from tests.bench.figures import Figure, at_most, middle, ratio_at_least, told
from tests.bench.sizes import Sizes

PROGRAM = Path(__file__).with_name("program.py")
ROOT = Path(__file__).parents[2]
PYTHON_VARIABLE = "ASYNCFLOW_PYTHON"
MOST_MICROSECONDS = 300
_TIMEOUT = 600


def programs(sizes: Sizes) -> Iterator[Figure]:
    theirs = os.environ.get(PYTHON_VARIABLE)
    if theirs is None:
        print(f"  without reference: {PYTHON_VARIABLE} names no Python with radical.asyncflow")
    pairs = []
    for _ in range(sizes.rounds):
        # One after the other, so that a busy minute meets both.
        ours = _run(sys.executable, "ours", sizes)
        pairs.append((ours, _run(theirs, "asyncflow", sizes) if theirs else None))
    for part, tasks, what in (
        ("chains", 3 * sizes.program_workflows, f"{sizes.program_workflows} workflows of 3 functions on threads"),
        ("programs", sizes.program_tasks, f"{sizes.program_tasks} programs /bin/true"),
    ):
        rate = middle(tasks / ours[part] for ours, _ in pairs)
        reference = [tasks / other[part] for _, other in pairs if other is not None]
        if reference:
            yield ratio_at_least(what, rate, "tasks/s", middle(reference), "RADICAL AsyncFlow", 1)
        else:
            yield told(what, rate, "tasks/s")
    overhead = middle(1e6 * ours["nothing"] / sizes.program_nothing for ours, _ in pairs)
    yield at_most("overhead of a task on noop", overhead, "µs", MOST_MICROSECONDS)


def _run(python: str, library: str, sizes: Sizes) -> dict[str, float]:
    numbers = (sizes.program_workflows, sizes.program_tasks, sizes.program_nothing)
    command = [python, str(PROGRAM), library, *map(str, numbers)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)} if library == "ours" else dict(os.environ)
    done = shell.run(command, timeout=_TIMEOUT, env=env)
    assert done.returncode == 0, done.output_tail
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
