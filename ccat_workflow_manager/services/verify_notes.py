"""Notes of a verification that goes on: after an interruption another one can go on behind them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import UUID

from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.services.verify import Progress

log = logging.getLogger(__name__)

VERIFICATION = "verification"
_FILE = "verify.json"


@dataclass(slots=True)
class Notes:
    """What is looked at, how far it has come, and what was found."""

    path: Path
    since: datetime | None
    checksums: bool
    progress: Progress = field(default_factory=Progress)
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def new(cls, data_dir: Path, since: datetime | None, *, checksums: bool) -> Self:
        return cls(data_dir / _FILE, since, checksums)

    @classmethod
    def interrupted(cls, data_dir: Path) -> Self | None:
        """Those of the last verification, if it did not come to its end."""
        path = data_dir / _FILE
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            since = None if kept["since"] is None else datetime.fromisoformat(kept["since"])
            progress = Progress(kept["runs"], kept["products"], UUID(kept["last"]))
            return cls(path, since, kept["checksums"], progress, [Finding(**each) for each in kept["findings"]])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read: %s", path, error)
            return None

    def write(self) -> None:
        """Replace the notes by what is known now."""
        kept = {
            "since": None if self.since is None else self.since.isoformat(),
            "checksums": self.checksums,
            "runs": self.progress.runs,
            "products": self.progress.products,
            "last": str(self.progress.last),
            "findings": [asdict(each) for each in self.findings],
        }
        part = self.path.with_suffix(".part")
        try:
            part.write_text(json.dumps(kept), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            log.warning("%s cannot be written, so this cannot be resumed: %s", self.path, error.strerror)

    def remove(self) -> None:
        """The verification has come to its end."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def remember_verification(doorbell: Doorbell, ended: float, kinds: Counter[str]) -> None:
    """Keep how a verification ended, for the metrics of all managers."""
    doorbell.remember(VERIFICATION, json.dumps({"ended": ended, "kinds": kinds}))
