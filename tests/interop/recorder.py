"""Turns the tests' outcomes into the matrix: marks for tests, and the pytest plugin that reads them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.interop.known import known_fault
from tests.interop.matrix import Fabric, Feature, Matrix, PeerFault, Row, Verdict
from tests.lab.build import PROJECT

__all__ = ["NotOffered", "NotShown", "Notes", "Recorder", "feature", "peer_fault"]

_MAX_NOTE = 300  # characters of a failure's reason
_NOTE = "note"


class NotOffered(Exception):  # noqa: N818 - an outcome, not an error
    """The peer has no such feature; the message names who says so, and how."""


class NotShown(Exception):  # noqa: N818 - an outcome, not an error
    """The peer's fault did not show this time; many are races."""


def feature(which: Feature) -> pytest.MarkDecorator:
    """Mark a test as one of ``which``, in the row of its class."""
    return pytest.mark.feature(which)


def peer_fault(peer: str, what: str) -> pytest.MarkDecorator:
    """Mark a test that shows a fault of a peer, which our code works round."""
    return pytest.mark.peer_fault(peer, what)


class Notes:
    """What a passed test has to add to its cell; the fixture ``notes``."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def add(self, note: str) -> None:
        """Goes beside the cell."""
        self.said.append(note)


class Recorder:
    """The plugin.  ``matrix`` fills while tests run; ``failed`` maps each test that failed to its module.

    What a test found travels in the report's ``user_properties``: the process that ran it may be a worker of
    pytest-xdist, and the one that keeps the matrix sees the report only.  JUnit files show them, too.
    """

    def __init__(self) -> None:
        self.matrix = Matrix()
        self.failed: dict[str, Path] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        outcome = call.excinfo.value if call.excinfo else None
        if isinstance(outcome, NotOffered | NotShown) and call.when == "call":
            report.outcome, report.longrepr = "passed", None
        if call.when == "call" or report.failed:
            report.user_properties += _found(item, report, outcome)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Where the matrix is kept: take what the test found."""
        if report.failed:
            self.failed[report.nodeid] = PROJECT / report.nodeid.partition("::")[0]
        found = dict(report.user_properties)
        notes = [str(value) for name, value in report.user_properties if name == _NOTE]
        if "feature" in found:
            row = Row(str(found["ours"]), str(found["peer"]), Fabric(str(found["fabric"])))
            for note in notes or [""]:
                self.matrix.record(row, Feature(str(found["feature"])), Verdict(found["verdict"]), note)
        elif "fault" in found:
            fault = PeerFault(str(found["peer"]), str(found["fault"]), bool(found["shown"]), "; ".join(notes))
            self.matrix.faults.append(fault)


def _found(item: pytest.Item, report: pytest.TestReport, outcome: BaseException | None) -> list[tuple[str, str | bool]]:
    """Of a test that stands for a cell or for a peer's fault: which, how it came out, and the notes."""
    mark, fault = item.get_closest_marker("feature"), item.get_closest_marker("peer_fault")
    row = getattr(getattr(item, "cls", None), "row", None)
    if mark and isinstance(row, Row):
        verdict, note = _verdict(row, mark.args[0], report, outcome)
        if verdict is Verdict.KNOWN:
            report.outcome, report.wasxfail = "skipped", note
        cell = {"ours": row.ours, "peer": row.peer, "fabric": row.fabric, "feature": mark.args[0], "verdict": verdict}
        said = [note, *_notes(item)]
        properties = [(name, str(getattr(value, "value", value))) for name, value in cell.items()]
        return [*properties, *((_NOTE, text) for text in said if text)]
    if fault:
        said = [_reason(outcome), *_notes(item)]
        shown = [("peer", fault.args[0]), ("fault", fault.args[1]), ("shown", outcome is None)]
        return [*shown, *((_NOTE, text) for text in said if text)]
    return []


def _verdict(row: Row, which: Feature, report: pytest.TestReport, outcome: BaseException | None) -> tuple[Verdict, str]:
    if isinstance(outcome, NotOffered):
        return Verdict.NOT_OFFERED, str(outcome)
    if report.passed:
        return Verdict.PASS, ""
    known = known_fault(row, which)
    if known:
        return Verdict.KNOWN, known
    return Verdict.FAIL, _reason(outcome)


def _notes(item: pytest.Item) -> list[str]:
    notes = getattr(item, "funcargs", {}).get("notes")
    return notes.said if isinstance(notes, Notes) else []


def _reason(outcome: BaseException | None) -> str:
    """One line of an exception."""
    if outcome is None:
        return ""
    first = next(iter(str(outcome).splitlines()), "")
    if isinstance(outcome, NotShown):
        return first
    return ": ".join(filter(None, (type(outcome).__name__, first)))[:_MAX_NOTE]
