"""What a case is, and how one ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from initiator.conformance.site import Site
from initiator.conformance.verdict import Verdict

__all__ = ["Case", "Outcome"]


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
