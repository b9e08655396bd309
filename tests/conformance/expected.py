"""What is expected of each test in each kind: ``expected.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from tests.conformance.verdict import Outcome, Place, Verdict

__all__ = ["EXPECTED", "Expected", "Known", "load_expected"]

EXPECTED: Final = Path(__file__).with_name("expected.toml")


class Known(BaseModel):
    """Tests that do not pass, and why.  ``failed_at`` is the line of the tool's source that errs, if one does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: frozenset[str] = Field(min_length=1)
    tests: tuple[str, ...] = Field(min_length=1)
    why: str = Field(min_length=1)
    failed_at: str | None = Field(default=None, pattern=r"^[\w-]+\.c:\d+$")

    @property
    def verdict(self) -> Verdict:
        return Verdict.TOOL if self.failed_at else Verdict.SKIP

    def fits(self, place: Place) -> bool:
        return place.kind in self.kinds and any(fnmatchcase(place.test, pattern) for pattern in self.tests)


class Expected(BaseModel):
    """The whole file: ``tests`` is how many the tool of version ``tool`` has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str
    tests: int
    exception: tuple[Known, ...] = ()

    def known(self, place: Place) -> Known | None:
        """What is known of ``place``; None if it has to pass."""
        return next((known for known in self.exception if known.fits(place)), None)

    def judge(self, place: Place, outcome: Outcome) -> Outcome:
        """``outcome``, but a failure at the very line where the tool is known to err is the tool's."""
        known = self.known(place)
        if outcome.verdict is Verdict.FAIL and known and outcome.failed_at == (known.failed_at,):
            return outcome._replace(verdict=Verdict.TOOL)
        return outcome

    def differences(self, found: Mapping[Place, Outcome]) -> list[str]:
        """One line for each of ``found``, already judged, that is not as expected."""
        lines = []
        for place, outcome in found.items():
            known = self.known(place)
            wanted = known.verdict if known else Verdict.PASS
            if outcome.verdict is not wanted:
                reason = f": {outcome.reason}" if outcome.reason else ""
                lines.append(f"{place.kind}: {place.test}: {outcome.verdict}, expected {wanted}{reason}")
        return lines

    def stale(self, places: Iterable[Place]) -> list[str]:
        """One line for each pattern, and for each kind of an exception, that fits none of a complete run."""
        all_places = list(places)
        return [
            f"{EXPECTED.name}: {pattern} on {kind} fits no test: take it out"
            for known in self.exception
            for kind in sorted(known.kinds)
            for pattern in known.tests
            if not any(place.kind == kind and fnmatchcase(place.test, pattern) for place in all_places)
        ]


def load_expected(path: Path = EXPECTED) -> Expected:
    """Raises pydantic's ValidationError for a file that is not as described above."""
    return Expected.model_validate(tomllib.loads(path.read_text()))
