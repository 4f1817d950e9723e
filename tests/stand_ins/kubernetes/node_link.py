"""The way to the process that runs the containers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from tests.stand_ins.kubernetes.models import Object

_PROGRAM = Path(__file__).parents[1] / "container_node" / "start.py"
_STOP_SECONDS = 30


class NodeLink:
    """Sends orders, hands on news. The process and all containers end with `stop` or with this process."""

    def __init__(self, directory: Path, hear: Callable[[Object], None], groups: Groups | None) -> None:
        self._hear = hear
        self._lock = threading.Lock()
        self._errors = (directory / "node.log").open("ab")
        argv = [sys.executable, "-I", "-S", str(_PROGRAM), *([groups.base] if groups else [])]
        self._process = shell.spawn(argv, stdin=shell.PIPE, stdout=shell.PIPE, stderr=self._errors)
        self._reader = threading.Thread(target=self._read, name="stand-in node", daemon=True)
        self._reader.start()

    def send(self, order: Object) -> None:
        line = json.dumps(order).encode() + b"\n"
        with self._lock:
            if self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def stop(self) -> None:
        with self._lock:
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait(_STOP_SECONDS)
        # The shims hold the other end; it closes when the last of them has cleared up.
        self._reader.join(_STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._hear(json.loads(line))
