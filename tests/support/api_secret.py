"""The secret of a deployment, for tests that call its API without the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx

from ccat_workflow_manager.local_api import SECRET_FILE


class FileSecret(httpx.Auth):
    """Sends the secret of the deployment with this data directory, once there is one."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / SECRET_FILE

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        if self._file.exists():
            request.headers["Authorization"] = f"Bearer {self._file.read_text().strip()}"
        yield request
