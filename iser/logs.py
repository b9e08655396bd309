"""Logging for the command lines: ``--log NAME=LEVEL``, and lines as text or as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from iser.errors import UsageError

__all__ = ["JsonFormatter", "LogFormat", "configure_logging", "set_levels"]

_FORMAT: Final = "%(asctime)s %(levelname).1s %(name)s %(message)s"


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as its line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(specs: Iterable[str], default: int = logging.WARNING, form: LogFormat = LogFormat.TEXT) -> None:
    """Log to stderr at ``default``, in lines of ``form``; ``specs`` as for :func:`set_levels`.

    Raises UsageError for a level that does not exist.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else logging.Formatter(_FORMAT))
    logging.basicConfig(level=default, handlers=[handler], force=True)
    set_levels(specs)


def set_levels(specs: Iterable[str]) -> None:
    """Each spec is ``LEVEL`` for everything or ``NAME=LEVEL`` for one logger.

    Raises UsageError for a level that does not exist, with nothing changed.
    """
    levels: list[tuple[str, int]] = []
    for spec in specs:
        name, _, level = spec.rpartition("=")
        value = logging.getLevelNamesMapping().get(level.upper())
        if value is None:
            raise UsageError(f"--log {spec}: level {level!r} does not exist; use debug, info, warning or error")
        levels.append((name, value))
    for name, value in levels:
        logging.getLogger(name or None).setLevel(value)
