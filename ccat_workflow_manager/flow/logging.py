"""Log lines of a program, with the names of `radical.asyncflow.logging`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)-7s [%(name)s] %(message)s"
_DETAILED = "%(asctime)s %(levelname)-7s [%(process)d %(threadName)s] [%(name)s] %(message)s"


def init_default_logger(
    log_level: int | str = logging.INFO,
    *,
    output_file: str | os.PathLike[str] | None = None,
    file_log_level: int | str | None = None,
    use_colors: bool = False,
    show_details: bool = False,
    style: str = "modern",
    clear_handlers: bool = False,
    logger_name: str | None = None,
) -> logging.Logger:
    """Have the root logger, or the one with this name, write to standard output and to a file.

    `show_details` adds process and thread. There is one style, without colours, whatever `use_colors` and `style` say.
    """
    logger = logging.getLogger(logger_name)
    if clear_handlers:
        logger.handlers.clear()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    handlers[0].setLevel(log_level)
    if output_file is not None:
        Path(output_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(output_file, encoding="utf-8"))
        handlers[1].setLevel(log_level if file_log_level is None else file_log_level)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_DETAILED if show_details else _FORMAT))
        logger.addHandler(handler)
    logger.setLevel(min(handler.level for handler in handlers))
    logging.captureWarnings(True)
    return logger
