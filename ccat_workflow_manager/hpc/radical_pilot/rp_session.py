"""One session of RADICAL-Pilot with one pilot: the only module that knows its API.

RADICAL-Pilot calls back in threads of its own; the callbacks here put what they report into a queue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from sys import executable
from typing import Any
from urllib.parse import urlsplit

from ccat_workflow_manager.hpc.radical_pilot.job import PilotJob
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings

_MIB = 1024**2
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class PilotChange:
    """The pilot is in another state."""

    state: str
    final: bool
    active: bool
    text: str


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task runs, or has ended."""

    uid: str
    state: str
    final: bool
    exit_code: int | None
    text: str
    sandbox: str = ""
    with_its_pilot: bool = False
    """The task ended because the pilot did."""


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What one node of the pilot has; 0: the label does not say."""

    cores: int
    memory_mb: int


class RadicalSession:
    """Opened, used and closed by one thread."""

    def __init__(
        self, settings: RadicalPilotSettings, directory: Path, report: Callable[[PilotChange | TaskChange], None]
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._report = report
        self._session: Any = None

    def open(self) -> NodeShape:
        """Submit the pilot. Raises what RADICAL-Pilot raises if it cannot."""
        self._configure()
        import radical.pilot as rp

        self._rp = rp
        settings = self._settings
        self._session = rp.Session(uid=f"ccat.{self._directory.name}")
        config = self._session.get_resource_config(settings.resource, settings.access_schema or None)
        self._pilots = rp.PilotManager(session=self._session)
        self._tasks = rp.TaskManager(session=self._session)
        self._pilots.register_callback(self._on_pilot)
        self._tasks.register_callback(self._on_task)
        self._shape = NodeShape(config.cores_per_node or 0, config.mem_per_node or 0)
        optional = {
            "queue": settings.queue, "project": settings.project, "access_schema": settings.access_schema,
        }  # fmt: skip
        description = {
            "resource": settings.resource,
            "runtime": settings.walltime_minutes,
            "sandbox": str(self._directory),
            "exit_on_error": False,
            "job_name": "ccat-wm",
            **settings.pilot_size,
            **{name: value for name, value in optional.items() if value},
        }
        self._tasks.add_pilots(self._pilots.submit_pilots(rp.PilotDescription(description)))
        return self._shape

    def submit(self, jobs: Sequence[tuple[PilotJob, str]], program: Path) -> list[str]:
        """Submit a task for each job and its file. Returns the uids of the tasks, in order."""
        tasks = self._tasks.submit_tasks([self._description(job, file, program) for job, file in jobs])
        return [str(task.uid) for task in tasks]

    def close(self) -> None:
        if self._session is not None:
            self._session.close(download=False)

    def _description(self, job: PilotJob, file: str, program: Path) -> Any:
        description = {
            "name": job.job_id,
            "executable": executable,
            # RADICAL-Pilot does not quote all words that it writes into shell scripts: these need no quotes.
            "arguments": ["-I", "-S", str(program), file, str(self._directory)],
            "ranks": 1,
            "cores_per_rank": job.cores,
            "gpus_per_rank": job.gpus,
            "priority": job.priority,
        }
        if self._shape.memory_mb:
            # Where the label says nothing about memory, RADICAL-Pilot refuses every request for it.
            description["mem_per_rank"] = ceil(job.limits.memory_bytes / _MIB)
        return self._rp.TaskDescription(description)

    def _configure(self) -> None:
        """Provide the user's own descriptions of machines, corrected by the settings."""
        configs = Path(os.environ["HOME"], ".radical", "pilot", "configs")
        configs.mkdir(parents=True)
        theirs = Path(os.environ.get("CCAT_WM_REAL_HOME") or "/nonexistent", ".radical", "pilot", "configs")
        site, _, machine = self._settings.resource.partition(".")
        own = f"resource_{site}.json"
        for path in theirs.glob("*.json"):
            if path.name != own or not self._settings.node_shape:
                (configs / path.name).symlink_to(path)
        from radical.utils import Config, read_json

        described = read_json(str(theirs / own)) if (theirs / own).exists() else {}
        shipped = Config("radical.pilot.resource", name="*", expand=False)
        if machine not in described and (site not in shipped or machine not in shipped[site]):
            raise ValueError("RADICAL-Pilot knows no such label")
        if self._settings.node_shape:
            described[machine] = {**described.get(machine, {}), **self._settings.node_shape}
            (configs / own).write_text(json.dumps(described), encoding="utf-8")

    # --- called by RADICAL-Pilot, in its threads ---------------------------------------------------------------------

    def _on_pilot(self, pilot: Any, state: str) -> None:
        final, active = state in self._rp.FINAL, state == self._rp.PMGR_ACTIVE
        self._report(PilotChange(state, final, active, _last_line(getattr(pilot, "log", ""))))

    def _on_task(self, task: Any, state: str) -> None:
        final = state in self._rp.FINAL
        if not final and state != self._rp.AGENT_EXECUTING:
            return
        why = str(task.exception or "")
        change = TaskChange(
            uid=str(task.uid),
            state=state,
            final=final,
            exit_code=task.exit_code,
            text="; ".join(part for part in (why, _last_line(task.stderr)) if part)[-_LONGEST_TEXT:],
            sandbox=urlsplit(str(task.task_sandbox or "")).path,
            with_its_pilot="pilot died" in why,
        )
        self._report(change)


def _last_line(text: object) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[-1][-_LONGEST_TEXT:] if lines else ""
