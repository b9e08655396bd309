"""Writes what was found: ``docs/conformance.md`` for people, and JUnit XML for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.conformance.expected import Expected, Known
from tests.conformance.kinds import KINDS
from tests.conformance.verdict import Outcome, Place, Verdict

__all__ = ["passed_somewhere", "render", "write_junit"]

_WORDS: Final = {
    Verdict.PASS: "pass",
    Verdict.SKIP: "skip",
    Verdict.TOOL: "skip, tool errs",
    Verdict.FAIL: "**FAIL**",
    Verdict.HANG: "**HANG**",
}
_NOT_RUN: Final = "-"


def passed_somewhere(found: Mapping[Place, Outcome]) -> set[str]:
    """The tests that pass in at least one kind."""
    return {place.test for place, outcome in found.items() if outcome.verdict is Verdict.PASS}


def render(found: Mapping[Place, Outcome], expected: Expected, versions: Mapping[str, str]) -> str:
    """The page, in Markdown.  ``found`` has been judged."""
    tests = list(dict.fromkeys(place.test for place in found))
    counts = Counter(outcome.verdict for outcome in found.values())
    lines = [
        "# Conformance of the target: libiscsi's tests",
        "",
        "Written by `make conformance`, which runs `iscsi-test-cu` (Debian's libiscsi-bin) test by test on the target",
        "over TCP, and fails if a result differs from `tests/conformance/expected.toml`.  How to check *any* iSER",
        "target with tests of our own is in `conformance-iser.md`.",
        "",
        *(f"* {name}: {value}" for name, value in versions.items()),
        f"* **{len(passed_somewhere(found))} of {len(tests)} tests pass** in at least one kind of LUN; "
        f"in any kind, {counts[Verdict.FAIL]} fail and {counts[Verdict.HANG]} hang",
        "",
        *_kinds(found),
        "",
        "## Why tests are skipped",
        "",
        *_notes(found, expected),
        "",
        "## Every test",
        "",
        f"`{_NOT_RUN}` means that the test is not run on that kind; a number refers to the list above.",
        "",
        f"| test | {' | '.join(kind.name for kind in KINDS)} |",
        f"|---|{'---|' * len(KINDS)}",
        *(
            f"| {test} | {' | '.join(_cell(found, expected, Place(kind.name, test)) for kind in KINDS)} |"
            for test in tests
        ),
    ]
    return "\n".join(lines) + "\n"


def _kinds(found: Mapping[Place, Outcome]) -> list[str]:
    verdicts = list(Verdict)
    lines = [f"| kind of LUN | | {' | '.join(verdicts)} |", f"|---|---|{'---|' * len(verdicts)}"]
    for kind in KINDS:
        counts = Counter(outcome.verdict for place, outcome in found.items() if place.kind == kind.name)
        lines.append(f"| {kind.name} | {kind.about} | {' | '.join(str(counts[verdict]) for verdict in verdicts)} |")
    return lines


def _notes(found: Mapping[Place, Outcome], expected: Expected) -> list[str]:
    """A numbered list, in the order of the exceptions."""
    lines = []
    for number, known in enumerate(expected.exception, start=1):
        where = f" (`{known.failed_at}`)" if known.failed_at else ""
        said = dict.fromkeys(outcome.reason for place, outcome in found.items() if expected.known(place) is known)
        lines.append(f"{number}. {_names(known)} on {' and '.join(sorted(known.kinds))}: {known.why.strip()}{where}")
        lines += [f"   The tool: `{' '.join(reason.split())}`" for reason in said if reason]
    return lines


def _names(known: Known) -> str:
    return ", ".join(f"`{pattern}`" for pattern in known.tests)


def _cell(found: Mapping[Place, Outcome], expected: Expected, place: Place) -> str:
    outcome = found.get(place)
    if outcome is None:
        return _NOT_RUN
    known = expected.known(place)
    number = f" ({expected.exception.index(known) + 1})" if known else ""
    return _WORDS[outcome.verdict] + number


def write_junit(path: Path, found: Mapping[Place, Outcome], expected: Expected) -> None:
    """A suite for each kind; a test that is not as it should be is a failure, one that the tool skips is skipped."""
    root = ElementTree.Element("testsuites")
    for kind in KINDS:
        here = {place: outcome for place, outcome in found.items() if place.kind == kind.name}
        suite = ElementTree.SubElement(root, "testsuite", name=kind.name, tests=str(len(here)))
        for place, outcome in here.items():
            name = place.test.rpartition(".")
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{kind.name}.{name[0]}", name=name[2], time=f"{outcome.seconds:.3f}"
            )
            if expected.differences({place: outcome}):
                ElementTree.SubElement(case, "failure", message=outcome.reason or outcome.verdict)
            elif outcome.verdict is not Verdict.PASS:
                ElementTree.SubElement(case, "skipped", message=outcome.reason)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
