"""Tests of tests.conformance.page: as a reader, and as a CI system, sees it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tests.conformance.page import passed_somewhere, render, write_junit
from tests.conformance.test_expected import EJECT, EXPECTED, READ, RESET
from tests.conformance.verdict import Outcome, Place, Verdict

FOUND = {
    EJECT: Outcome(Verdict.SKIP, "Not removable."),
    READ: Outcome(Verdict.PASS, seconds=1.5),
    RESET: Outcome(Verdict.TOOL, "test_reset.c:157: CU_ASSERT(done)", ("test_reset.c:157",)),
    Place("removable", "Eject.Simple"): Outcome(Verdict.PASS),
    Place("removable", "Read.Simple"): Outcome(Verdict.FAIL, "test_read.c:1: CU_ASSERT(x)"),
}


def test_the_page_counts_explains_and_lists_every_test() -> None:
    text = render(FOUND, EXPECTED, {"Date": "2026-11-21"})
    assert passed_somewhere(FOUND) == {"Read.Simple", "Eject.Simple"}
    assert "**2 of 3 tests pass** in at least one kind of LUN; in any kind, 1 fail and 0 hang" in text
    assert "| Eject.Simple | skip (1) | pass | - | - |" in text
    assert "| Read.Simple | pass | **FAIL** | - | - |" in text
    assert "| Reset.Async | skip, tool errs (2) | - | - | - |" in text
    assert "1. `Eject.*` on fixed: no tray\n   The tool: `Not removable.`" in text
    assert "2. `Reset.Async` on fixed: too early (`test_reset.c:157`)" in text


def test_junit_fails_what_is_not_as_expected(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    write_junit(path, FOUND, EXPECTED)
    cases = {(case.get("classname"), case.get("name")): case for case in ElementTree.parse(path).iter("testcase")}
    assert cases["fixed.Read", "Simple"].get("time") == "1.500"
    assert list(cases["fixed.Read", "Simple"]) == []
    assert [child.tag for child in cases["fixed.Eject", "Simple"]] == ["skipped"]
    assert [child.tag for child in cases["fixed.Reset", "Async"]] == ["skipped"]
    assert [child.tag for child in cases["removable.Read", "Simple"]] == ["failure"]
    assert len(cases) == len(FOUND)
