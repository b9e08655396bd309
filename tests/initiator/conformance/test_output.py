from __future__ import annotations

import io
import json
from xml.etree import ElementTree

from rich.console import Console

from initiator.conformance import CASES, Outcome, Verdict, as_json, as_junit
from initiator.conformance.output import case_table, outcome_table, summary

URL = "iser://host/iqn.2026-11.test:disk/0"
OUTCOMES = [
    Outcome(CASES[0], Verdict.PASS, "", 0.5),
    Outcome(CASES[1], Verdict.FAIL, 'it said "<no>" & [red]', 0.25),
    Outcome(CASES[2], Verdict.WARN, "odd"),
    Outcome(CASES[3], Verdict.SKIP, "not offered"),
]


def _text(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_summary() -> None:
    assert summary(OUTCOMES) == "1 pass, 1 warn, 1 fail, 1 skip"


def test_the_table_has_a_line_for_each_with_its_reason_as_it_was_said() -> None:
    lines = [line.split() for line in _text(outcome_table(OUTCOMES)).splitlines()[1:]]
    assert [line[:2] for line in lines] == [[o.case.full_name, o.verdict.value] for o in OUTCOMES]
    assert " ".join(lines[1][3:]) == 'it said "<no>" & [red]'
    assert " ".join(lines[0][3:]) == f"{CASES[0].checks} ({CASES[0].section})"


def test_the_list_of_cases() -> None:
    text = _text(case_table(CASES))
    assert all(case.full_name in text for case in CASES)


def test_json() -> None:
    found = json.loads(as_json(URL, OUTCOMES))
    assert found["target"] == URL
    assert found["counts"] == {"pass": 1, "fail": 1, "warn": 1, "skip": 1}
    assert found["cases"][1] == {
        "name": CASES[1].full_name,
        "checks": CASES[1].checks,
        "section": CASES[1].section,
        "destructive": False,
        "verdict": "fail",
        "why": 'it said "<no>" & [red]',
        "seconds": 0.25,
    }


def test_junit() -> None:
    suite = ElementTree.fromstring(as_junit(URL, OUTCOMES).encode())
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "time")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
        "time": "0.750",
    }
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [[], ["failure"], ["system-out"], ["skipped"]]
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.get("message") == OUTCOMES[1].why
