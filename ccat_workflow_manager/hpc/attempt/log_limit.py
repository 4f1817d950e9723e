"""When a job has written too much log, in the words that every backend uses."""

from __future__ import annotations

_MIB = 1024**2


def log_excess(size: int, limit: float) -> str | None:
    """Why a job whose logs have so many bytes is not to go on; None if it may."""
    if size <= limit:
        return None
    return f"the program wrote {size / _MIB:.0f} MB of log; LOG_LIMIT_MB allows {limit / _MIB:g}"
