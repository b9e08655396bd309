"""How far a benchmark is, and how long it will take, on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from initiator.bench.cases import Case

__all__ = ["TimeLeft", "duration", "shown_progress"]

_COLUMNS: Final = (
    BarColumn(),
    TaskProgressColumn(),
    TextColumn("{task.fields[left]}"),
    TextColumn("{task.description}"),
)
_PLANNED: Final = 30  # turns that the planned time of one counts for against those measured


def duration(seconds: float) -> str:
    """``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class TimeLeft:
    """Seconds to go: as planned, ``each`` for a turn, until enough turns tell better."""

    def __init__(self, each: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = each
        self._clock = clock
        self._start = clock()
        self._first: int | None = None

    def left(self, done: int, total: int) -> float:
        """After ``done`` turns of ``total``; those of the first call were there before."""
        if self._first is None:
            self._first = done
        here = done - self._first
        each = (self._clock() - self._start + _PLANNED * self._each) / (here + _PLANNED)
        return each * (total - done)


@contextmanager
def shown_progress(each: float) -> Iterator[Callable[[int, int, Case], None]]:
    """A bar with the time left on stderr, if that is a terminal; a turn takes about ``each`` seconds."""
    if not sys.stderr.isatty():
        yield lambda done, total, case: None
        return
    estimate = TimeLeft(each)
    with Bar(*_COLUMNS, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", left="")

        def note(done: int, total: int, case: Case) -> None:
            left = f"{duration(estimate.left(done, total))} left"
            bar.update(task, completed=done, total=total, left=left, description=case.key)

        yield note
