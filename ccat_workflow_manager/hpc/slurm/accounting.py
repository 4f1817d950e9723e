"""How the accounting is, told by whichever worker asked it last."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from ccat_workflow_manager.errors import BackendUnavailable

OK = "ok"
NONE = "none"
_NOT_ASKED = "not asked yet"


class AccountingNote:
    """A file beside what was submitted: jobs may be followed by one worker, and the queues shown by another."""

    def __init__(self, directory: Path, backend: str) -> None:
        self._file = directory / "accounting"
        self._backend = backend

    def write(self, words: str) -> None:
        """`OK`, `NONE`, or why it did not answer. Only a change is written."""
        try:
            if self._read() == words:
                return
            part = self._file.with_name(f".accounting.{os.getpid()}")
            part.write_text(words, encoding="utf-8")
            part.replace(self._file)
        except OSError as error:
            text = f"how the accounting is cannot be noted: {error}"
            raise BackendUnavailable(text, backend=self._backend) from error

    def facts(self) -> dict[str, str]:
        """For operators."""
        try:
            words = self._read()
            since = datetime.fromtimestamp(self._file.stat().st_mtime, UTC) if words else None
        except OSError as error:
            return {"accounting": f"its note cannot be read: {error}"}
        if since is None:
            return {"accounting": _NOT_ASKED}
        return {"accounting": words, "accounting_since": since.isoformat(timespec="seconds")}

    def _read(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
