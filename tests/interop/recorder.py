"""Turns the tests' outcomes into the matrix: marks for tests, and the pytest plugin that reads them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.interop.known import known_fault
from tests.interop.matrix import Feature, Matrix, PeerFault, Row, Verdict

__all__ = ["NotOffered", "NotShown", "Notes", "Recorder", "feature", "peer_fault"]

_MAX_NOTE = 300  # characters of a failure's reason


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
    """The plugin.  ``matrix`` fills while tests run; ``failed`` maps each test that failed to its module."""

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
            self._record(item, report, outcome)
        if report.failed:
            self.failed[item.nodeid] = item.path
        return report

    def _record(self, item: pytest.Item, report: pytest.TestReport, outcome: BaseException | None) -> None:
        mark, fault = item.get_closest_marker("feature"), item.get_closest_marker("peer_fault")
        row = getattr(getattr(item, "cls", None), "row", None)
        if mark and isinstance(row, Row):
            verdict, note = _verdict(row, mark.args[0], report, outcome)
            if verdict is Verdict.KNOWN:
                report.outcome, report.wasxfail = "skipped", note
            for text in [note, *_notes(item)]:
                self.matrix.record(row, mark.args[0], verdict, text)
            properties = (("peer", row.peer), ("fabric", row.fabric), ("feature", mark.args[0]), ("verdict", verdict))
            report.user_properties += [(name, str(getattr(value, "value", value))) for name, value in properties]
        elif fault:
            note = "; ".join(filter(None, [_reason(outcome), *_notes(item)]))
            self.matrix.faults.append(PeerFault(fault.args[0], fault.args[1], outcome is None, note))


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
