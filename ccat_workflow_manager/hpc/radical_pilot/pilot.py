"""What is recorded about pilots, in `pilots/` of the state directory.

- `NAME.json`   the state of the pilot, written by its agent, and which process that agent is
- `NAME/alive`  changes as long as the agent lives, then holds ENDED; jobs on the nodes read it
- `NAME/run`    the program that runs one job on a node
- `NAME/agent.log`, and the home, session and sandboxes of RADICAL-Pilot
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccat_workflow_manager.hpc.attempt.bundle import PROGRAM, sources
from ccat_workflow_manager.hpc.attempt.files import replace_file
from ccat_workflow_manager.hpc.attempt.logs import last_lines
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.note_store import NoteStore
from ccat_workflow_manager.hpc.radical_pilot.job import BACKEND
from ccat_workflow_manager.hpc.radical_pilot.job_process import ALIVE, ENDED

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""An agent on another machine counts as dead after so long without a change of `alive`."""
KEEP_SECONDS = 7 * 86400.0
"""How long the directory of a pilot is kept, for operators who want to know why it ended."""
STARTING, ACTIVE, OVER, FAILED = "starting", "active", "ended", "failed"


@dataclass(frozen=True, slots=True)
class PilotState:
    """The state of a pilot."""

    agent: HostProcess | None = None
    """The process that manages the pilot."""
    state: str = STARTING
    """STARTING, ACTIVE, OVER, or FAILED if it never became active."""
    text: str = "the pilot is starting"
    resource: str = ""
    cores_per_node: int = 0
    memory_mb_per_node: int = 0
    cores: int = 0
    until: float = 0.0
    """When its time is over, or when it ended; 0: not known."""
    running: int = 0
    pending: int = 0

    @property
    def takes_jobs(self) -> bool:
        return self.state in (STARTING, ACTIVE)


def _decode(data: dict[str, Any]) -> PilotState:
    agent = data["agent"]
    return PilotState(**{**data, "agent": HostProcess(**agent) if agent is not None else None})


class Pilots:
    """The pilots of a state directory."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "pilots"
        self.states: NoteStore[PilotState] = NoteStore(BACKEND, self.directory, asdict, _decode, ".json")

    def path(self, name: str) -> Path:
        return self.directory / name

    def create(self, name: str) -> Path:
        """Make the directory of a pilot, with the program of its jobs. Returns it. Raises OSError."""
        directory = self.path(name)
        for file, source in sources("hpc/radical_pilot/job_process.py").items():
            path = directory / "run" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        (directory / "home").mkdir()
        self.beat(name, "0")
        return directory

    def program(self, name: str) -> Path:
        return self.path(name) / "run" / PROGRAM

    def beat(self, name: str, text: str) -> None:
        replace_file(str(self.path(name) / ALIVE), f"{text}\n".encode())

    def end(self, name: str) -> None:
        """Stop the jobs of a pilot, on all nodes."""
        self.beat(name, ENDED)

    def alive(self, name: str, state: PilotState) -> bool:
        """Whether the agent of a pilot lives; without it the pilot starts no job."""
        agent = state.agent
        if agent is None:
            return False
        if agent.host == platform.node():
            return agent.running
        return self._age(name) < SILENT_SECONDS

    def last_words(self, name: str) -> str:
        """The last line that the agent of a pilot printed."""
        directory = str(self.path(name))
        text = last_lines(f"{directory}/agent.log", 20, root=directory)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][-500:] if lines else "its agent printed nothing"

    def remove_old(self) -> None:
        """Remove the pilots that ended long ago."""
        for name in self.states.ids():
            if self._age(name) > KEEP_SECONDS and not self.alive(name, self.states.get(name) or PilotState()):
                shutil.rmtree(self.path(name), ignore_errors=True)
                self.states.remove(name)

    def _age(self, name: str) -> float:
        """Seconds since the last beat; infinite if there is none."""
        try:
            return time.time() - os.stat(self.path(name) / ALIVE).st_mtime
        except OSError:
            return float("inf")
