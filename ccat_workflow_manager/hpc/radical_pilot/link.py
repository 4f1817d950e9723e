"""A worker's hold on the process that looks after its pilot, which is started when the first job comes.

One pilot for each process and configuration, however many backend objects there are. It ends when the last of them is
closed, or when this process ends in any other way.
"""

from __future__ import annotations

import json
import os
import select
import shutil
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
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.radical_pilot import pilot_dir
from ccat_workflow_manager.hpc.radical_pilot.options import PilotOptions
from ccat_workflow_manager.hpc.radical_pilot.pilot_dir import PilotDir
from ccat_workflow_manager.hpc.radical_pilot.store import BACKEND, JobStore, Ticket

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0
_END_SECONDS = 15.0
_HERE = Path(__file__).parent


@dataclass(slots=True)
class _Bridge:
    """A pilot and the process that looks after it."""

    pilot: PilotDir
    process: shell.Process

    @property
    def name(self) -> str:
        return self.pilot.path.name

    def send(self, lines: Sequence[dict[str, object]]) -> bool:
        """False if nobody is left to read it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def end(self, patience: float) -> None:
        """Ask it to end. Where that takes long, at a batch system, it goes on alone: it has a limit of its own."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.poll() is None:
            end = os.pidfd_open(self.process.pid)
            select.select([end], [], [], patience)
            os.close(end)
            self.process.poll()


class PilotLink:
    """Starts pilots, one after the other, and hands jobs over to them."""

    def __init__(self, root: Path, options: PilotOptions) -> None:
        self.root = root
        self.options = options
        self.users = 0
        self._bridge: _Bridge | None = None
        self._failures = 0
        self._not_before = 0.0
        self._why = ""
        self._lock = threading.Lock()

    @property
    def pilot(self) -> PilotDir | None:
        """The pilot of this process, if there is one."""
        return self._bridge.pilot if self._bridge is not None else None

    def dir_of(self, name: str) -> PilotDir:
        return PilotDir(self.root / "pilots" / name)

    def ready(self) -> str:
        """The name of the pilot that jobs can be handed over to; one is started if there is none.

        Raises BackendUnavailable while no pilot can be had.
        """
        with self._lock:
            return self._living().name

    def hand_over(self, store: JobStore, tickets: Sequence[Ticket]) -> None:
        """Have a pilot run these; written down for whoever looks is which one."""
        with self._lock:
            for _ in range(2):
                bridge = self._living()
                moved = [replace(ticket, pilot=bridge.name) for ticket in tickets]
                for ticket in moved:
                    if ticket not in tickets:
                        store.replace(ticket)
                if bridge.send([{"job": asdict(ticket)} for ticket in moved]):
                    return
                self._end(bridge)
            raise BackendUnavailable(f"the pilot ends as soon as it is started: {self._why}", backend=BACKEND)

    def close(self) -> None:
        with self._lock:
            if self._bridge is not None:
                self._bridge.end(self.options.kill_grace_seconds + _END_SECONDS)
                self._bridge = None

    # --- inside, with the lock held ----------------------------------------------------------------------------------

    def _living(self) -> _Bridge:
        bridge = self._bridge
        if bridge is not None:
            if bridge.process.poll() is None and bridge.pilot.note().state in (pilot_dir.STARTING, pilot_dir.ACTIVE):
                return bridge
            self._end(bridge)
        wait = self._not_before - time.monotonic()
        if wait > 0:
            text = f"{self._why}; the next try is in {wait:.0f} s"
            raise BackendUnavailable(text, backend=BACKEND)
        self._bridge = self._start()
        return self._bridge

    def _end(self, bridge: _Bridge) -> None:
        """This pilot takes no more jobs. One that never was up is not followed by the next at once."""
        self._bridge = None
        note = bridge.pilot.note()
        if bridge.process.poll() is None:
            # It says goodbye to its session, which nobody has to wait for.
            threading.Thread(target=bridge.end, args=(_END_SECONDS,), daemon=True).start()
        if note.state in (pilot_dir.ENDED, pilot_dir.ACTIVE):
            self._failures, self._not_before = 0, 0.0
            self._why = note.text
            return
        self._why = "the pilot could not be started: " + (
            note.text if note.state == pilot_dir.FAILED else bridge.pilot.last_words()
        )
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures += 1
        self._not_before = time.monotonic() + pause

    def _start(self) -> _Bridge:
        pilots = self.root / "pilots"
        pilot = PilotDir(pilots / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:8]}")
        try:
            pilots.mkdir(mode=0o700, parents=True, exist_ok=True)
            pilot_dir.remove_old(pilots)
            self._forget_old()
            home = pilot.path / "home"
            home.mkdir(parents=True)
            shutil.copyfile(_HERE / "keeper.sh", pilot.path / "keeper.sh")
            pilot.beat(0)
            with open(pilot.log, "wb") as log:
                process = shell.spawn(
                    [sys.executable, "-I", str(_HERE / "agent_main.py"), str(self.root), pilot.path.name],
                    env=self._environment(home),
                    cwd=pilot.path,
                    stdin=shell.PIPE,
                    stdout=log,
                    stderr=log,
                )
            pilot.set_keeper(process.pid)
        except OSError as error:
            text = f"{error.filename or pilot.path} cannot be used: {error.strerror}"
            raise BackendUnavailable(text, backend=BACKEND) from error
        bridge = _Bridge(pilot, process)
        bridge.send([self.options.model_dump()])
        return bridge

    def _forget_old(self) -> None:
        """Jobs that nobody has cleaned up go when their pilot's directory has gone."""
        store = JobStore(self.root / "jobs")
        for job_id in store.job_ids():
            try:
                ticket = store.ticket(job_id)
            except BackendConfused:
                # Whoever asks for this job is told.
                continue
            if ticket is not None and not self.dir_of(ticket.pilot).path.exists():
                store.forget(job_id)

    def _environment(self, home: Path) -> dict[str, str]:
        """RADICAL-Pilot needs the site's environment, and gets nothing of ours, among which are passwords.

        It writes into HOME whatever it is told, and looks for its programs on PATH.
        """
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("CCAT_", "PYTHON"))}
        programs = os.path.dirname(sys.executable)
        environment = {
            "RADICAL_REPORT": "FALSE",
            "RADICAL_PROFILE": "FALSE",
            "RADICAL_LOG_LVL": "ERROR",
            **ours,
            "HOME": str(home),
            # The shell of whoever started the worker has left one; files would land there.
            "PWD": str(home.parent),
            "PATH": f"{programs}:{ours.get('PATH', CLEAN_PATH)}",
            "RADICAL_BASE": str(home),
            "CCAT_WM_REAL_HOME": ours.get("HOME", ""),
        }
        if sys.prefix != sys.base_prefix:
            environment["VIRTUAL_ENV"] = sys.prefix
        if self.options.local:
            # Its channels know no passwords, so they are for this machine alone where that is enough.
            environment["RADICAL_DEFAULT_IFACE"] = "lo"
        return environment


_links: dict[tuple[int, str, PilotOptions], PilotLink] = {}
_lock = threading.Lock()


def hold(root: Path, options: PilotOptions) -> PilotLink:
    """The link of this process; to be given back with `release`."""
    with _lock:
        # A forked child must not write into its parent's pipe.
        link = _links.setdefault((os.getpid(), str(root), options), PilotLink(root, options))
        link.users += 1
        return link


def release(link: PilotLink) -> None:
    """Give it back; the last one ends the pilot."""
    with _lock:
        link.users -= 1
        last = link.users == 0
        if last:
            _links.pop((os.getpid(), str(link.root), link.options), None)
    if last:
        link.close()
