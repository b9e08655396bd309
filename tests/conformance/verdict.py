"""What one test of the tool came to, and what is known of it beforehand."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Outcome", "Place", "Verdict"]


class Verdict(StrEnum):
    """How a test ended.  ``TOOL`` is a failure that the tool itself is to blame for."""

    PASS = "pass"
    SKIP = "skip"
    TOOL = "skip (tool errs)"
    FAIL = "fail"
    HANG = "hang"


class Place(NamedTuple):
    """One test in one kind of LUN."""

    kind: str
    test: str


class Outcome(NamedTuple):
    """How a test ended, the tool's own words for why, and the seconds that it took.

    ``failed_at`` are the lines of the tool's source whose assertions did not hold, as ``file.c:line``.
    """

    verdict: Verdict
    reason: str = ""
    failed_at: tuple[str, ...] = ()
    seconds: float = 0.0
