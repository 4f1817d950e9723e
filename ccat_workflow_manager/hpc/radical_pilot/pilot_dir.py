"""The directory of one pilot: whose it is, how it is, and whether somebody still looks after it.

- `keeper.sh`    what stays beside each job, see there
- `bridge.json`  which process looks after the pilot, written by the one that has started it
- `pilot.json`   how the pilot is, written by the bridge
- `alive`        a number that grows as long as the bridge lives
- `bridge.log`, and the homes, sessions and sandboxes of RADICAL-Pilot
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.logs import last_lines
from ccat_workflow_manager.hpc.attempt.process_tree import Identity
from ccat_workflow_manager.hpc.radical_pilot.store import BACKEND

T = TypeVar("T")

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""On another machine a bridge is taken for dead after so long without a beat."""
KEEP_SECONDS = 7 * 86400.0
"""What pilots have left behind is kept so long, for those who want to know why."""

STARTING, ACTIVE, ENDED, FAILED = "starting", "active", "ended", "failed"


@dataclass(frozen=True, slots=True)
class PilotNote:
    """How a pilot is."""

    state: str = STARTING
    """`starting`, `active`, `ended`, or `failed` if it never became active."""
    text: str = "the pilot is starting"
    cores_per_node: int = 0
    gpus_per_node: int = 0
    memory_mb_per_node: int = 0
    cores: int = 0
    until: float = 0.0
    """When its time is over."""
    running: int = 0
    pending: int = 0
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that looks after a pilot."""

    host: str
    boot: str
    pid: int
    started: int

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.started)


@dataclass(frozen=True, slots=True)
class PilotDir:
    """The directory of one pilot; its name is the name of the pilot."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "bridge.log"

    def set_keeper(self, pid: int) -> None:
        me = process_tree.identity(pid)
        assert me is not None, "one that has not been waited for is in the process table"
        self._write("bridge.json", asdict(Keeper(platform.node(), process_tree.boot_id(), me.pid, me.started)))

    def set_note(self, note: PilotNote) -> None:
        self._write("pilot.json", asdict(note))

    def note(self) -> PilotNote:
        data = self._read("pilot.json")
        try:
            return PilotNote(**data) if data is not None else PilotNote()
        except TypeError as error:
            raise BackendConfused(f"{self.path / 'pilot.json'} cannot be read: {error}", backend=BACKEND) from error

    def beat(self, number: int) -> None:
        # Written over in place: whoever reads half a number still sees another one than before.
        (self.path / "alive").write_text(f"{number}\n", encoding="ascii")

    def alive(self) -> bool:
        """Whether somebody looks after the pilot; without that it runs nothing more."""
        data = self._read("bridge.json")
        if data is None:
            # It is being started at this moment, or it is gone.
            return self._age(self.path) < SILENT_SECONDS
        try:
            keeper = Keeper(**data)
        except TypeError as error:
            raise BackendConfused(f"{self.path / 'bridge.json'} cannot be read: {error}", backend=BACKEND) from error
        if keeper.host == platform.node():
            return keeper.boot == process_tree.boot_id() and keeper.identity.running
        return self._age(self.path / "alive") < SILENT_SECONDS

    def last_words(self) -> str:
        """The end of what the bridge has printed: the line that says most about why it has ended."""
        text = last_lines(str(self.log), 20, root=str(self.log.parent))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][-500:] if lines else "it has printed nothing"

    def age(self) -> float:
        """Seconds since anything in the directory was last put in place; infinite if it is gone."""
        return self._age(self.path)

    @staticmethod
    def _age(path: Path) -> float:
        try:
            return time.time() - path.stat().st_mtime
        except OSError:
            return float("inf")

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendUnavailable(f"{path} cannot be read: {error.strerror}", backend=BACKEND) from error
        except ValueError as error:
            raise BackendConfused(f"{path} cannot be read: {error}", backend=BACKEND) from error
        if not isinstance(data, dict):
            raise BackendConfused(f"{path} cannot be read: it is no object", backend=BACKEND)
        return data

    def _write(self, name: str, data: dict[str, Any]) -> None:
        part = self.path / f".{name}.{os.getpid()}"
        part.write_text(json.dumps(data), encoding="utf-8")
        part.rename(self.path / name)


def remove_old(directory: Path) -> None:
    """Remove what pilots that are long gone have left behind."""
    for path in directory.iterdir():
        pilot = PilotDir(path)
        if KEEP_SECONDS < pilot.age() < float("inf") and not pilot.alive():
            shutil.rmtree(path, ignore_errors=True)
