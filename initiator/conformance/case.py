"""What a case is, and how it can end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from iser.errors import IserError

if TYPE_CHECKING:
    from initiator.conformance.site import Site

__all__ = ["Case", "Failure", "Outcome", "Skipped", "Unusual", "Verdict", "require"]


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


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to check.

    ``run`` returns if the target conforms and raises Failure, Unusual or Skipped if not.  ``destructive`` cases write
    to the LUN; ``risky`` ones have brought targets down, and come last.
    """

    name: str
    checks: str
    section: str
    run: Callable[[Site], Awaitable[None]]
    destructive: bool = False
    risky: bool = False
    group: str = ""

    @property
    def full_name(self) -> str:
        """The group and the name, as ``--only`` matches them."""
        return f"{self.group}.{self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How ``case`` ended; ``why`` is a sentence, "" for a pass; ``seconds`` is how long it took."""

    case: Case
    verdict: Verdict
    why: str = ""
    seconds: float = 0.0


def require(condition: object, sentence: str) -> None:
    """Raises Failure with ``sentence`` unless ``condition`` holds."""
    if not condition:
        raise Failure(sentence)
