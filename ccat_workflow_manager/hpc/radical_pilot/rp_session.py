"""One session of RADICAL-Pilot with one pilot: the only module that knows its API.

Its callbacks come in threads of its own; what they say is put into a queue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ccat_workflow_manager.hpc.radical_pilot.options import PilotOptions
from ccat_workflow_manager.hpc.radical_pilot.store import JobStore, Ticket


@dataclass(frozen=True, slots=True)
class PilotNews:
    """The pilot is in another state."""

    state: str
    final: bool
    active: bool
    text: str


@dataclass(frozen=True, slots=True)
class TaskNews:
    """A task runs, or is over."""

    uid: str
    state: str
    final: bool
    exit_code: int | None
    text: str
    sandbox: str = ""
    with_its_pilot: bool = False
    """It ended because the pilot did."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one node of the pilot has; 0: the label does not say."""

    cores_per_node: int
    gpus_per_node: int
    memory_mb_per_node: int


class RadicalSession:
    """Opened, used and closed by one thread."""

    def __init__(self, options: PilotOptions, directory: Path, tell: Callable[[PilotNews | TaskNews], None]) -> None:
        self._options = options
        self._directory = directory
        self._tell = tell
        self._session: Any = None

    def open(self) -> Shape:
        """Ask for the pilot. Raises what RADICAL-Pilot raises if it cannot be."""
        self._configure()
        import radical.pilot as rp

        self._rp = rp
        options = self._options
        self._session = rp.Session(uid=f"ccat.{self._directory.name}")
        config = self._session.get_resource_config(options.resource, options.access_schema or None)
        self._pilots = rp.PilotManager(session=self._session)
        self._tasks = rp.TaskManager(session=self._session)
        self._pilots.register_callback(self._on_pilot)
        self._tasks.register_callback(self._on_task)
        self._shape = Shape(config.cores_per_node or 0, config.gpus_per_node or 0, config.mem_per_node or 0)
        description = {
            "resource": options.resource,
            "runtime": options.walltime_minutes,
            "sandbox": str(self._directory),
            "exit_on_error": False,
            "job_name": "ccat-wm",
            **options.pilot_size,
            **{
                name: value
                for name, value in (
                    ("queue", options.queue),
                    ("project", options.project),
                    ("access_schema", options.access_schema),
                )
                if value
            },
        }
        pilot = self._pilots.submit_pilots(rp.PilotDescription(description))
        self._tasks.add_pilots(pilot)
        return self._shape

    def submit(self, tickets: Sequence[Ticket], store: JobStore) -> list[str]:
        """The uids of the tasks, in order."""
        tasks = self._tasks.submit_tasks([self._description(ticket, store) for ticket in tickets])
        return [str(task.uid) for task in tasks]

    def close(self) -> None:
        if self._session is not None:
            self._session.close(download=False)

    def _description(self, ticket: Ticket, store: JobStore) -> Any:
        description = {
            "name": ticket.job_id,
            "executable": "/bin/sh",
            "arguments": [str(store.path(ticket.job_id, "start")), self._directory.name, str(self._directory)],
            "ranks": 1,
            "cores_per_rank": ticket.cores,
            "gpus_per_rank": ticket.gpus,
            "priority": ticket.priority,
        }
        if self._shape.memory_mb_per_node:
            # Where the label says nothing of memory, asking for any is refused.
            description["mem_per_rank"] = ticket.memory_mb
        return self._rp.TaskDescription(description)

    def _configure(self) -> None:
        """The user's own descriptions of machines, and what we know better about this one."""
        configs = Path(os.environ["HOME"], ".radical", "pilot", "configs")
        configs.mkdir(parents=True)
        theirs = Path(os.environ.get("CCAT_WM_REAL_HOME") or "/nonexistent", ".radical", "pilot", "configs")
        site, _, machine = self._options.resource.partition(".")
        own = f"resource_{site}.json"
        for path in theirs.glob("*.json"):
            if path.name != own or not self._options.node_shape:
                (configs / path.name).symlink_to(path)
        from radical.utils import Config, read_json

        described = read_json(str(theirs / own)) if (theirs / own).exists() else {}
        shipped = Config("radical.pilot.resource", name="*", expand=False)
        if machine not in described and (site not in shipped or machine not in shipped[site]):
            raise ValueError("RADICAL-Pilot knows no such label")
        if self._options.node_shape:
            described[machine] = {**described.get(machine, {}), **self._options.node_shape}
            (configs / own).write_text(json.dumps(described), encoding="utf-8")

    # --- called by RADICAL-Pilot, in its threads ---------------------------------------------------------------------

    def _on_pilot(self, pilot: Any, state: str) -> None:
        log = str(getattr(pilot, "log", "") or "").strip().splitlines()
        self._tell(
            PilotNews(
                state=state,
                final=state in self._rp.FINAL,
                active=state == self._rp.PMGR_ACTIVE,
                text=log[-1][-500:] if log else "",
            )
        )

    def _on_task(self, task: Any, state: str) -> None:
        final = state in self._rp.FINAL
        if not final and state != self._rp.AGENT_EXECUTING:
            return
        words = str(task.exception or "")
        stderr = str(task.stderr or "").strip().splitlines()
        self._tell(
            TaskNews(
                uid=str(task.uid),
                state=state,
                final=final,
                exit_code=task.exit_code,
                text="; ".join(part for part in (words, stderr[-1] if stderr else "") if part)[-500:],
                sandbox=urlsplit(str(task.task_sandbox or "")).path,
                with_its_pilot="pilot died" in words,
            )
        )
