"""Comparing with files under tests/golden. `UPDATE_GOLDEN=1 pytest ...` writes them anew; review the diff."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "golden"


def check_golden(name: str, value: Any) -> None:
    """The value, as readable JSON, must be what the golden file holds."""
    path = DIRECTORY / f"{name}.json"
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; UPDATE_GOLDEN=1 if that is meant"
