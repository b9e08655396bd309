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

_FORMAT: Final = "%(asctime)s %(levelname).1s %(name)s {}%(message)s"


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``exception`` if any.

    Where ``worker`` is not 0 it is in the object, too.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The record as its line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker:
            line["worker"] = self._worker
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(
    specs: Iterable[str], default: int = logging.WARNING, form: LogFormat = LogFormat.TEXT, worker: int = 0
) -> None:
    """Log to stderr at ``default``, in lines of ``form``; ``specs`` as for :func:`set_levels`.

    ``worker`` tells the lines of one of several processes from those of the others.

    Raises UsageError for a level that does not exist.
    """
    handler = logging.StreamHandler()
    text = _FORMAT.format(f"worker {worker}: " if worker else "")
    handler.setFormatter(JsonFormatter(worker) if form is LogFormat.JSON else logging.Formatter(text))
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
