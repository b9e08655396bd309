"""Logging for the command lines: ``--log NAME=LEVEL`` and the format of a line."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from iser.errors import UsageError

__all__ = ["configure_logging"]

_FORMAT = "%(asctime)s %(levelname).1s %(name)s %(message)s"


def configure_logging(specs: Iterable[str], default: int = logging.WARNING) -> None:
    """Log to stderr at ``default``; each spec is ``LEVEL`` for everything or ``NAME=LEVEL`` for one logger.

    Raises UsageError for a level that does not exist.
    """
    logging.basicConfig(level=default, format=_FORMAT, force=True)
    for spec in specs:
        name, _, level = spec.rpartition("=")
        value = logging.getLevelNamesMapping().get(level.upper())
        if value is None:
            raise UsageError(f"--log {spec}: level {level!r} does not exist; use debug, info, warning or error")
        logging.getLogger(name or None).setLevel(value)
