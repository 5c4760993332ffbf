"""Logging for applications: the library only writes to loggers, whoever starts a program decides what is shown."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_COLORS = {logging.DEBUG: "36", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "35"}


class ColoredFormatter(logging.Formatter):
    """Time, level, logger and text, with the level in colour."""

    def __init__(self, *, color: bool = True) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        self._color = color

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the name is logging's)
        """Format one record."""
        text = super().formatMessage(record)
        if not self._color:
            return text
        return text.replace(record.levelname, f"\x1b[{_COLORS.get(record.levelno, '0')}m{record.levelname}\x1b[0m", 1)


# Python 3.10 cannot subscript the class, so the stream's type stays untold.
class _CortexHandler(logging.StreamHandler):  # type: ignore[type-arg]
    pass


def get_logger(name: str, level: int | None = None) -> logging.Logger:
    """Return the logger of that name; it gets no handler, and a level only if one is given."""
    logger = logging.getLogger(name)
    if level is not None:
        logger.setLevel(level)
    return logger


def set_log_level(logger: logging.Logger, level: str) -> None:
    """Set the level of a logger by name (``"INFO"``).  Raises ValueError for an unknown name."""
    logger.setLevel(level.upper())


def setup_logging(level: str = "INFO", *, logger: str = "cortex", stream: TextIO | None = None) -> logging.Logger:
    """Show the records of a logger and its children on stderr; for programs, never called by the library.

    Args:
        level: least level shown, by name.
        logger: name of the logger.
        stream: where to write instead of stderr.
    """
    target = logging.getLogger(logger)
    stream = stream or sys.stderr
    handler = _CortexHandler(stream)
    handler.setFormatter(ColoredFormatter(color=stream.isatty()))
    for old in [h for h in target.handlers if isinstance(h, _CortexHandler)]:
        target.removeHandler(old)
    target.addHandler(handler)
    target.propagate = False
    set_log_level(target, level)
    return target
