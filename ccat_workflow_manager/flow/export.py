"""The pipeline definition of what a program would do: its executable tasks as steps.

The program runs dry. In place of the output of a task it gets a token; where the token appears in a later command, the
definition reads the output of that step from a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ccat_workflow_manager.flow.errors import FlowError
from ccat_workflow_manager.flow.execution import ExecutionBackend, Work
from ccat_workflow_manager.flow.future import TaskFuture
from ccat_workflow_manager.flow.service import literal, step_name, step_of

_TOKEN = re.compile(r"<output of ([a-z0-9][a-z0-9_-]*)>")
_FILE = "stdout.txt"
_LONGEST_NAME = 63


class Recorder(ExecutionBackend):
    """Stands in for every backend while a program is exported."""

    def __init__(self) -> None:
        super().__init__("export")
        self.steps: list[dict[str, Any]] = []
        self._step_of: dict[TaskFuture, str] = {}
        self._steps_in: dict[TaskFuture, list[str]] = {}
        """The steps of each block."""
        self._read: set[str] = set()

    @property
    def executes(self) -> bool:
        return False

    def start(self, work: Work) -> None:
        self.post(work, f"<output of {self._step_of[work.future]}>")

    def cancel(self, work: Work) -> None:
        """Nothing runs."""

    async def shutdown(self) -> None:
        """Nothing runs."""

    def record(self, work: Work, after: Sequence[TaskFuture], blocks: Sequence[TaskFuture]) -> None:
        """Add the step of a task that is called in these blocks. Raises FlowError for what a definition cannot hold."""
        future = work.future
        if work.command is None:
            raise FlowError(
                f"task {future.id} is a function, which a definition cannot hold; "
                "make it an executable task that runs a script, or leave it out of the exported coroutine"
            )
        name = self._step_of[future] = self._new_name(future.name)
        read = list(dict.fromkeys(_TOKEN.findall("\0".join(work.command))))
        self._read |= set(read)
        depends_on = list(dict.fromkeys([*read, *(step for each in after for step in self._last_steps(each))]))
        for block in blocks:
            self._steps_in.setdefault(block, []).append(name)
        step = {
            "name": name,
            "image": work.options.image,
            "command": _reading(work.command, read),
            "depends_on": depends_on,
            **step_of(future.id, work.options),
        }
        self.steps.append({key: value for key, value in step.items() if value})

    def _last_steps(self, future: TaskFuture) -> list[str]:
        """The step of a task; the steps of a block on which no other step of it depends."""
        if future in self._step_of:
            return [self._step_of[future]]
        inside = self._steps_in.get(future, [])
        needed = {each for step in self.steps if step["name"] in inside for each in step.get("depends_on", ())}
        return [step for step in inside if step not in needed]

    def _new_name(self, task: str) -> str:
        """The name of the task, with a number from the second call on."""
        base, taken = step_name(task), {each["name"] for each in self.steps}
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base[: _LONGEST_NAME - len(str(number)) - 1]}-{number}"
        return name

    def definition(self, name: str) -> dict[str, Any]:
        """The definition. Steps whose output another one reads write it to a file."""
        if not self.steps:
            raise FlowError("the exported coroutine calls no executable task, so there is nothing to define")
        for step in self.steps:
            if step["name"] in self._read:
                step["command"] = _writing(step["command"])
        return {"name": name, "steps": self.steps}


def as_yaml(definition: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True))


def _reading(command: Sequence[str], read: Sequence[str]) -> list[str]:
    """A command that has the outputs of these steps in place of their tokens."""
    if not read:
        return [literal(word) for word in command]
    values = {step: f"output_{number}" for number, step in enumerate(read, 1)}
    lines = [f'{value}=$(cat "$WORKFLOW_UPSTREAM_DIR/{step}/main/{_FILE}") &&' for step, value in values.items()]
    return ["sh", "-c", literal("\n".join([*lines, "exec " + " ".join(_word(word, values) for word in command)]))]


def _word(word: str, values: Mapping[str, str]) -> str:
    """One argument for the shell: everything quoted but the outputs."""
    texts = _TOKEN.split(word)
    # Every second piece is the name of a step.
    pieces = [
        f'"${values[text]}"' if index % 2 else shlex.quote(text) if text else "" for index, text in enumerate(texts)
    ]
    return "".join(pieces) or "''"


def _writing(command: Sequence[str]) -> list[str]:
    return ["sh", "-c", f'"$@" > "$WORKFLOW_OUTPUT_DIR/{_FILE}"', "sh", *command]
