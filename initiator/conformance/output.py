"""What came out, as a table, as JSON and as JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from initiator.conformance.case import Case, Outcome
from initiator.conformance.verdict import Verdict

__all__ = ["as_json", "as_junit", "case_table", "console", "outcome_table", "summary"]

_STYLES: Final = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.SKIP: "dim"}


def case_table(cases: Iterable[Case]) -> Table:
    """What there is to run."""
    table = Table("case", "checks", "source", "writes", box=None)
    for case in cases:
        table.add_row(case.full_name, case.checks, case.section, "yes" if case.destructive else "")
    return table


def outcome_table(outcomes: Iterable[Outcome]) -> Table:
    """What came out, with the reasons."""
    table = Table("case", "", "seconds", "what it checks, and what was found", box=None)
    for outcome in outcomes:
        case, style = outcome.case, _STYLES[outcome.verdict]
        text = outcome.why or f"{case.checks} ({case.section})"
        table.add_row(case.full_name, f"[{style}]{outcome.verdict.value}[/]", f"{outcome.seconds:.2f}", _escape(text))
    return table


def _escape(text: str) -> str:
    """Text of a peer is no markup."""
    return text.replace("[", "\\[")


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)


def as_json(url: str, outcomes: Sequence[Outcome]) -> str:
    """An object with the target, the counts by verdict, and a list of cases."""
    counts = Counter(outcome.verdict.value for outcome in outcomes)
    cases = [
        {
            "name": outcome.case.full_name,
            "checks": outcome.case.checks,
            "section": outcome.case.section,
            "destructive": outcome.case.destructive,
            "verdict": outcome.verdict.value,
            "why": outcome.why,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
    return json.dumps({"target": url, "counts": dict(counts), "cases": cases}, indent=2) + "\n"


def as_junit(url: str, outcomes: Sequence[Outcome]) -> str:
    """One suite; a warning is a passed case whose output says why."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    suite = ElementTree.Element(
        "testsuite",
        name=f"iser conformance {url}",
        tests=str(len(outcomes)),
        failures=str(counts[Verdict.FAIL]),
        skipped=str(counts[Verdict.SKIP]),
        time=f"{sum(outcome.seconds for outcome in outcomes):.3f}",
    )
    for outcome in outcomes:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"conformance.{outcome.case.group}",
            name=outcome.case.name,
            time=f"{outcome.seconds:.3f}",
        )
        if outcome.verdict is Verdict.FAIL:
            ElementTree.SubElement(case, "failure", message=outcome.why)
        elif outcome.verdict is Verdict.SKIP:
            ElementTree.SubElement(case, "skipped", message=outcome.why)
        elif outcome.verdict is Verdict.WARN:
            ElementTree.SubElement(case, "system-out").text = f"warning: {outcome.why}"
    text: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def console() -> Console:
    """Where the table goes: standard output, never wrapped away where it is a file or a pipe."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=240)
