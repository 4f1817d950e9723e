"""The worker's side of a pilot agent: starts one when the first job comes, and gives it jobs.

A process has one agent and one pilot for each configuration, however many backend objects there are. They end when the
last of these is closed, or when the process ends in any other way.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.process_tree import HostProcess
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.radical_pilot.job import BACKEND, JobStore, PilotJob
from ccat_workflow_manager.hpc.radical_pilot.pilot import ACTIVE, FAILED, OVER, Pilots, PilotState
from ccat_workflow_manager.hpc.radical_pilot.settings import RadicalPilotSettings

END_SECONDS = 20.0
"""How long a closed backend waits for the end of its agent. Where that takes longer, the agent goes on alone."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class _Agent:
    """A pilot agent, and the name of its pilot."""

    pilot: str
    process: shell.Process

    def send(self, jobs: Sequence[PilotJob]) -> bool:
        """Returns False if the agent has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("".join(json.dumps(asdict(job)) + "\n" for job in jobs).encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def end(self) -> None:
        """Ask the agent to end, and wait for it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.poll() is None:
            end = os.pidfd_open(self.process.pid)
            select.select([end], [], [], END_SECONDS)
            os.close(end)
            self.process.poll()


class AgentClient:
    """Starts pilot agents, one after the other, and gives jobs to them."""

    def __init__(self, root: Path, settings: RadicalPilotSettings) -> None:
        self.store = JobStore(root)
        self.pilots = Pilots(root)
        self.users = 0
        self._root = root
        self._settings = settings
        self._agent: _Agent | None = None
        self._failures = 0
        self._not_before = 0.0
        self._why = ""
        self._lock = threading.Lock()

    def state(self) -> PilotState:
        """The state of the pilot of this process."""
        agent = self._agent
        return (self.pilots.states.get(agent.pilot) if agent is not None else None) or PilotState()

    def ready(self) -> str:
        """The name of the pilot that takes jobs. Starts one if there is none. Raises BackendUnavailable."""
        with self._lock:
            return self._living().pilot

    def give(self, jobs: Sequence[PilotJob]) -> None:
        """Give recorded jobs to the pilot, and record that it has them. Raises BackendUnavailable."""
        with self._lock:
            for _ in range(2):
                agent = self._living()
                given = [replace(job, pilot=agent.pilot) for job in jobs]
                for job in given:
                    if job not in jobs:
                        self.store.jobs.put(job.job_id, job)
                if agent.send(given):
                    return
                self._ended(agent)
            raise BackendUnavailable(f"the pilot ends as soon as it is started: {self._why}", backend=BACKEND)

    def close(self) -> None:
        with self._lock:
            if self._agent is not None:
                self._agent.end()
                self._agent = None

    # --- with the lock held ------------------------------------------------------------------------------------------

    def _living(self) -> _Agent:
        agent = self._agent
        if agent is not None:
            if agent.process.poll() is None and self.state().takes_jobs:
                return agent
            self._ended(agent)
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise BackendUnavailable(f"{self._why}; the next try is in {wait:.0f} s", backend=BACKEND)
        self._agent = self._start()
        return self._agent

    def _ended(self, agent: _Agent) -> None:
        """Forget an agent whose pilot takes no more jobs. If the pilot never was active, the next one waits."""
        state = self.state()
        self._agent = None
        if agent.process.poll() is None:
            threading.Thread(target=agent.end, daemon=True).start()
        if state.state in (OVER, ACTIVE):
            self._failures, self._not_before, self._why = 0, 0.0, state.text
            return
        why = state.text if state.state == FAILED else self.pilots.last_words(agent.pilot)
        self._why = f"the pilot could not be started: {why}"
        self._not_before = time.monotonic() + min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures += 1

    def _start(self) -> _Agent:
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:8]}"
        self.pilots.remove_old()
        self._forget_old()
        program = str(Path(__file__).with_name("agent_main.py"))
        try:
            directory = self.pilots.create(name)
            with open(directory / "agent.log", "wb") as log:
                process = shell.spawn(
                    [sys.executable, "-I", program, str(self._root), name, self._settings.model_dump_json()],
                    env=environment(directory / "home", local=self._settings.local),
                    cwd=directory,
                    stdin=shell.PIPE,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            text = f"{error.filename or self.pilots.path(name)} cannot be used: {error.strerror}"
            raise BackendUnavailable(text, backend=BACKEND) from error
        self.pilots.states.add(name, PilotState(HostProcess.of(process.pid)))
        return _Agent(name, process)

    def _forget_old(self) -> None:
        """Forget the jobs whose pilot was removed: no worker has cleaned them up for a week."""
        for job_id in self.store.jobs.ids():
            # `get_statuses` reports a file that cannot be read.
            with suppress(BackendConfused):
                job = self.store.jobs.get(job_id)
                if job is not None and not self.pilots.path(job.pilot).exists():
                    self.store.forget(job_id)


def environment(home: Path, *, local: bool) -> dict[str, str]:
    """The environment of the site without our settings, among which are passwords.

    RADICAL-Pilot writes into HOME in spite of its settings, and looks for its programs on PATH.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CCAT_", "PYTHON"))}
    variables = {
        "RADICAL_REPORT": "FALSE",
        "RADICAL_PROFILE": "FALSE",
        "RADICAL_LOG_LVL": "ERROR",
        # Each of its channels asks a time server first. Where names are not answered, that takes longer than the 10 s
        # that a pilot has to start; UDP refuses this address at once, and the clock of the machine is used.
        "RADICAL_UTILS_NTPHOST": "255.255.255.255",
        **ours,
        "HOME": str(home),
        # The shell that started the worker has left one, and RADICAL-Pilot would write there.
        "PWD": str(home.parent),
        "PATH": f"{os.path.dirname(sys.executable)}:{ours.get('PATH', CLEAN_PATH)}",
        "RADICAL_BASE": str(home),
        "CCAT_WM_REAL_HOME": ours.get("HOME", ""),
    }
    if sys.prefix != sys.base_prefix:
        variables["VIRTUAL_ENV"] = sys.prefix
    if local:
        # Its channels have no passwords, so they use loopback where that is enough.
        variables["RADICAL_DEFAULT_IFACE"] = "lo"
    return variables


_clients: dict[tuple[int, str, RadicalPilotSettings], AgentClient] = {}
_lock = threading.Lock()


def acquire(root: Path, settings: RadicalPilotSettings) -> AgentClient:
    """The client of this process, to be returned with `release`."""
    with _lock:
        # A forked child must not write into the pipe of its parent.
        key = (os.getpid(), str(root), settings)
        client = _clients.get(key) or AgentClient(root, settings)
        _clients[key] = client
        client.users += 1
        return client


def release(client: AgentClient) -> None:
    """Return a client; the last return ends its pilot."""
    with _lock:
        client.users -= 1
        if client.users:
            return
        for key in [key for key, each in _clients.items() if each is client]:
            del _clients[key]
    client.close()
