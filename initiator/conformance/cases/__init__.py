"""The table of all cases, by group; the risky ones come last."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.cases import (
    data,
    discovery,
    errors,
    flow,
    invalidation,
    login,
    negotiation,
    residual,
    shapes,
    tags,
    tmf,
)
from iser.errors import UsageError

__all__ = ["CASES", "chosen"]

_GROUPS: Final = {
    "login": login.CASES,
    "negotiation": negotiation.CASES,
    "discovery": discovery.CASES,
    "flow": flow.CASES,
    "data": data.CASES,
    "residual": residual.CASES,
    "tags": tags.CASES,
    "invalidation": invalidation.CASES,
    "shapes": shapes.CASES,
    "tmf": tmf.CASES,
    "errors": errors.CASES,
}

CASES: Final[tuple[Case, ...]] = tuple(
    sorted(
        (replace(case, group=group) for group, cases in _GROUPS.items() for case in cases), key=lambda case: case.risky
    )
)


def chosen(patterns: list[str]) -> list[Case]:
    """The cases whose full name, or group, matches one of ``patterns`` (shell style); all without patterns.

    Raises UsageError for a pattern that matches none.
    """
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in CASES):
            raise UsageError(f"--only {pattern!r} matches no case; see --list")
    return [case for case in CASES if not patterns or any(_matches(case, pattern) for pattern in patterns)]


def _matches(case: Case, pattern: str) -> bool:
    return fnmatchcase(case.full_name, pattern) or case.group == pattern
