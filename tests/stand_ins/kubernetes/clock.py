"""Times as objects carry them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def stamp(seconds: float | None = None) -> str:
    """To the second, as most of the API has it."""
    return _utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def fine_stamp(seconds: float | None = None) -> str:
    """To the microsecond, as eventTime has it."""
    return _utc(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _utc(seconds: float | None) -> datetime:
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
