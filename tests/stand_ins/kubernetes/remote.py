"""The face of a stand-in that runs as a process of its own."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.stand_ins.kubernetes.faults import Faults
from tests.stand_ins.kubernetes.http_face import Seen

FACE_FILE = "server.json"
_TIMEOUT = 30


class RemoteServer:
    """Reads what `python -m tests.stand_ins.kubernetes --directory D` has written into D."""

    def __init__(self, directory: Path) -> None:
        face = json.loads((directory / FACE_FILE).read_text())
        self.url = str(face["url"])
        self.kubeconfig = Path(face["kubeconfig"])
        self.token_file = Path(face["token_file"])
        self.pid = int(face["pid"])
        self.faults = Faults(self._send)

    @property
    def requests(self) -> list[Seen]:
        """Every request so far."""
        return [Seen(*row) for row in self._ask("/_requests", None)]

    def _send(self, fault: dict[str, Any]) -> None:
        self._ask("/_faults", json.dumps(fault).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return json.load(answer)
