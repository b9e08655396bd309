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


def chosen(only: list[str], skip: list[str] | None = None) -> list[Case]:
    """The cases whose full name, or group, matches one of ``only`` (shell style; empty: all) and none of ``skip``.

    Raises UsageError for a pattern that matches none.
    """
    skip = skip or []
    for pattern in [*only, *skip]:
        if not any(_matches(case, pattern) for case in CASES):
            raise UsageError(f"{pattern!r} matches no case and no group; see --list")
    return [case for case in CASES if (not only or _any(case, only)) and not _any(case, skip)]


def _any(case: Case, patterns: list[str]) -> bool:
    return any(_matches(case, pattern) for pattern in patterns)


def _matches(case: Case, pattern: str) -> bool:
    return fnmatchcase(case.full_name, pattern) or case.group == pattern
