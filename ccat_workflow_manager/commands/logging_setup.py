"""The log of a process: plain lines with time, level, process and message, set up here and nowhere else."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(message)s"
_CHATTY = ("httpx", "httpcore", "alembic", "rq.worker", "uvicorn.access")


def set_up_log(level: str, file: Path | None = None) -> None:
    """Log to stderr, or to a file where a display has the terminal. Forked children inherit this."""
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet = max(logging.WARNING, logging.getLevelName(level))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(quiet)
