"""The way from the server to the process that runs the containers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccat_workflow_manager import shell

# The project is last in the path, so that none of its modules can hide one of the standard library.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from tests.stand_ins.container_node.node import run; run()"
_PROJECT = str(Path(__file__).resolve().parents[3])
_STOP_SECONDS = 240


class NodeLink:
    """Sends orders and hands on reports. The process and all containers end with `stop` or with this process."""

    def __init__(self, directory: Path, on_report: Callable[[dict[str, Any]], None], control_group: str | None) -> None:
        self._on_report = on_report
        self._lock = threading.Lock()
        self._errors = (directory / "node.log").open("ab")
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, _PROJECT, *([control_group] if control_group else [])]
        self._process = shell.spawn(argv, stdin=shell.PIPE, stdout=shell.PIPE, stderr=self._errors)
        self._reader = threading.Thread(target=self._read, name="stand-in node", daemon=True)
        self._reader.start()

    def send(self, order: dict[str, Any]) -> None:
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
                self._on_report(json.loads(line))
