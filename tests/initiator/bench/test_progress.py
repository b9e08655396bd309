from __future__ import annotations

import io
import sys

import pytest

from initiator.bench.cases import Case
from initiator.bench.progress import TimeLeft, duration, shown_progress

CASE = Case("indirect", "S8", 65536, True, 8, "remote")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_time_left_is_what_was_planned_at_first_and_what_was_seen_later_on() -> None:
    clock = Clock()
    estimate = TimeLeft(0.2, clock)
    assert estimate.left(500, 1000) == pytest.approx(100)  # half was there before
    clock.now += 400
    assert estimate.left(900, 1000) == pytest.approx(100, rel=0.1)


def test_hours_minutes_seconds() -> None:
    assert [duration(seconds) for seconds in (0.4, 61, 3723)] == ["0:00:00", "0:01:01", "1:02:03"]


def test_a_terminal_shows_the_case_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with shown_progress(36.0) as note:
        note(0, 100, CASE)
    assert "1:00:00 left" in terminal.getvalue()
    assert CASE.key in terminal.getvalue()
