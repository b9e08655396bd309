"""How a case can end, and the exceptions that say so."""

from __future__ import annotations

from enum import StrEnum

from iser.errors import IserError

__all__ = ["Failure", "Skipped", "Unusual", "Verdict", "require"]


class Verdict(StrEnum):
    """How a case ended.  WARN is legal, but not what most targets do, or not what the standard recommends."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Failure(IserError):  # noqa: N818 - a verdict
    """The target does not conform; the message is the sentence that says how."""


class Unusual(IserError):  # noqa: N818 - a verdict
    """Legal, but different from most targets."""


class Skipped(IserError):  # noqa: N818 - a verdict
    """The case does not apply; the message names who says so."""


def require(condition: object, sentence: str) -> None:
    """Raises Failure with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise Failure(sentence)
