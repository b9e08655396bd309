"""Tests of tests.conformance.expected, and of the file itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.conformance.expected import Expected, Known, load_expected
from tests.conformance.kinds import KINDS
from tests.conformance.verdict import Outcome, Place, Verdict

SKIPPED = Known(kinds=frozenset({"fixed"}), tests=("Eject.*",), why="no tray")
ERRS = Known(kinds=frozenset({"fixed"}), tests=("Reset.Async",), why="too early", failed_at="test_reset.c:157")
EXPECTED = Expected(tool="1", tests=3, exception=(SKIPPED, ERRS))
EJECT, READ, RESET = (Place("fixed", test) for test in ("Eject.Simple", "Read.Simple", "Reset.Async"))


def differences(place: Place, outcome: Outcome) -> list[str]:
    return EXPECTED.differences({place: EXPECTED.judge(place, outcome)})


def failed(*where: str) -> Outcome:
    return Outcome(Verdict.FAIL, "why", where)


def test_what_is_not_listed_has_to_pass() -> None:
    assert differences(READ, Outcome(Verdict.PASS)) == []
    assert differences(READ, failed("test_read.c:1")) == ["fixed: Read.Simple: fail, expected pass: why"]
    assert differences(READ, Outcome(Verdict.SKIP, "no")) == ["fixed: Read.Simple: skip, expected pass: no"]
    assert differences(Place("removable", "Eject.Simple"), Outcome(Verdict.SKIP)) != []


def test_a_test_that_passes_must_leave_the_list() -> None:
    assert differences(EJECT, Outcome(Verdict.SKIP)) == []
    assert differences(EJECT, Outcome(Verdict.PASS)) == ["fixed: Eject.Simple: pass, expected skip"]
    assert differences(RESET, Outcome(Verdict.PASS)) == ["fixed: Reset.Async: pass, expected skip (tool errs)"]


def test_the_tool_is_to_blame_at_one_line_only() -> None:
    assert EXPECTED.judge(RESET, failed("test_reset.c:157")).verdict is Verdict.TOOL
    assert differences(RESET, failed("test_reset.c:157")) == []
    assert differences(RESET, failed("test_reset.c:158")) != []
    assert differences(RESET, failed("test_reset.c:157", "test_reset.c:158")) != []
    assert differences(RESET, Outcome(Verdict.HANG)) != []
    assert differences(EJECT, failed()) != []


def test_an_exception_that_fits_nothing_is_told() -> None:
    assert EXPECTED.stale([EJECT, READ, RESET]) == []
    assert EXPECTED.stale([EJECT, READ]) == ["expected.toml: Reset.Async on fixed fits no test: take it out"]


def test_an_exception_needs_a_reason_and_a_line_that_can_be_one() -> None:
    with pytest.raises(ValidationError):
        Known(kinds=frozenset({"fixed"}), tests=("Eject.*",), why="")
    with pytest.raises(ValidationError):
        Known(kinds=frozenset({"fixed"}), tests=("Eject.*",), why="bug", failed_at="somewhere")


def test_the_committed_file_names_kinds_that_there_are_and_leaves_the_goal_within_reach() -> None:
    expected = load_expected()
    kinds = {kind.name for kind in KINDS}
    assert all(known.kinds <= kinds for known in expected.exception)
    assert expected.tests == 230
