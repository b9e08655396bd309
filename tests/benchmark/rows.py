"""The rows of the comparison: what is wanted of each, and what was measured.

``docs/benchmarks/peers.md`` describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from initiator.bench.result import write_text
from tests.benchmark.host import BenchmarkError

__all__ = ["GOALS", "RATIO", "SCHEMA", "VERSION", "Goal", "Row", "Verdict", "collapsed", "load_rows", "save_rows"]

SCHEMA: Final = "iser-peers"
VERSION: Final = 1
RATIO: Final = "ratio"
_COLLAPSE: Final = 2.0  # times worse than the committed value


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row is to reach: a ``ratio`` of ours to the peer's, or our own value if ``unit`` is another.

    ``of`` is what is counted on either side.  Without ``must`` and ``aim`` the row is shown and not judged.
    """

    key: str
    what: str
    peer: str
    of: str
    must: float | None
    aim: float | None
    unit: str = RATIO
    lower: bool = False

    def reached(self, value: float, wanted: float) -> bool:
        """Whether ``value`` is as good as ``wanted``."""
        return value <= wanted if self.lower else value >= wanted


_TCP: Final = "tgtd, same `iscsi-perf`"
_RAW: Final = "plain sockets, same bytes"
_RAW_LOCAL: Final = "plain sockets with the congestion control that we choose"
_STACK: Final = "our initiator, softiwarp and target (two processes)"
_IOPS, _MB, _CPU, _KIB = "IOPS", "MB/s", "s/GiB", "KiB"


def _tcp(suffix: str, store: str) -> list[Goal]:
    ours = f"our target over TCP, {store}"
    return [
        Goal(f"tcp-4k-d32{suffix}", f"{ours}: 4 KiB random read, depth 32", _TCP, _IOPS, 1.3, 2.0),
        Goal(f"tcp-4k-d1{suffix}", f"{ours}: 4 KiB random read, depth 1", _TCP, _IOPS, 1.0, 1.15),
        Goal(f"tcp-64k{suffix}", f"{ours}: 64 KiB random read, depth 32", _TCP, _MB, 1.5, 2.5),
        Goal(f"tcp-1m{suffix}", f"{ours}: 1 MiB random read, depth 32", _TCP, _MB, 1.5, 2.5),
        Goal(f"cpu{suffix}", f"{ours}: processor time, 1 MiB reads", _TCP, _CPU, 0.7, 0.5, lower=True),
    ]


#: By key, in the order of the table.
GOALS: Final[Mapping[str, Goal]] = {
    goal.key: goal
    for goal in (
        *_tcp("", "LUN in memory"),
        *_tcp("-file", "LUN in a file"),
        Goal("iser-4k-d32", f"{_STACK}: 4 KiB random read, depth 32", "libiscsi and tgtd over TCP", _IOPS, 1.0, 1.5),
        Goal("iser-1m-read", f"{_STACK}: 1 MiB read, depth 8", _RAW, _MB, 0.8, 0.95),
        Goal("iser-1m-write", f"{_STACK}: 1 MiB write, depth 8", _RAW, _MB, 0.8, 0.95),
        Goal("iser-1m-read-local", f"{_STACK}: 1 MiB read, depth 8", _RAW_LOCAL, _MB, None, None),
        Goal("iser-1m-write-local", f"{_STACK}: 1 MiB write, depth 8", _RAW_LOCAL, _MB, None, None),
        Goal("memory-tcp", "memory of an idle session, TCP", "tgtd, TCP", _KIB, 300, 100, unit=_KIB, lower=True),
        Goal("memory-iser", "memory of an idle session, iSER", "tgtd, TCP", _KIB, 300, 100, unit=_KIB, lower=True),
        Goal(
            "workers",
            "two busy targets on two workers, over TCP: 4 KiB random read",
            "both in one process",
            _IOPS,
            1.6,
            1.8,
        ),
        Goal(
            "lab-64k", "our target on rxe, the kernel's initiator, fio 64 KiB read", "tgt, iSER on rxe", _MB, 0.5, 1.0
        ),
    )
}


class Verdict(StrEnum):
    """How far a row got."""

    AIM = "aim reached"
    MUST = "must reached"
    MISSED = "MISSED"
    SHOWN = "not judged"


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, in the unit ``goal.of``, pair by pair."""

    goal: Goal
    ours: Sequence[float]
    peer: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Ours to the peer's, of each pair."""
        return [one / other for one, other in zip(self.ours, self.peer, strict=True)]

    @property
    def judged(self) -> list[float]:
        """What is compared with the goal, of each pair."""
        return self.ratios if self.goal.unit == RATIO else list(self.ours)

    @property
    def value(self) -> float:
        """The median of what is judged."""
        return median(self.judged)

    @property
    def best(self) -> float:
        """The best pair of what is judged."""
        return min(self.judged) if self.goal.lower else max(self.judged)

    @property
    def verdict(self) -> Verdict:
        """How far it got."""
        goal = self.goal
        if goal.must is None or goal.aim is None:
            return Verdict.SHOWN
        if goal.reached(self.value, goal.aim):
            return Verdict.AIM
        return Verdict.MUST if goal.reached(self.value, goal.must) else Verdict.MISSED

    def to_json(self) -> dict[str, Any]:
        """The row with its goal."""
        goal = self.goal
        return {
            "key": goal.key, "what": goal.what, "peer_name": goal.peer, "of": goal.of, "unit": goal.unit,
            "better": "lower" if goal.lower else "higher", "must": goal.must, "aim": goal.aim,
            "ours": list(self.ours), "peer": list(self.peer), "value": self.value, "verdict": self.verdict.value,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From what :meth:`to_json` gave.  Raises KeyError for a row that is known no more."""
        return cls(GOALS[data["key"]], data["ours"], data["peer"])


def save_rows(path: Path, environment: Mapping[str, Any], settings: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Write the JSON, the rows in the order of :data:`GOALS`.  Raises UsageError."""
    order = list(GOALS)
    data = {
        "schema": SCHEMA, "version": VERSION, "environment": environment, "settings": settings,
        "rows": [row.to_json() for row in sorted(rows, key=lambda row: order.index(row.goal.key))],
    }  # fmt: skip
    write_text(path, json.dumps(data, indent=1) + "\n")


def load_rows(path: Path) -> dict[str, Row]:
    """The rows of a file by key, without those that are known no more.  Raises BenchmarkError."""
    try:
        data = json.loads(path.read_text())
        if (data["schema"], data["version"]) != (SCHEMA, VERSION):
            raise BenchmarkError(f"{path} is a result of another kind; write it anew with make bench-peers")
        rows = [Row.from_json(each) for each in data["rows"] if each["key"] in GOALS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path} is no result of this benchmark: {error}; write it with make bench-peers"
        ) from None
    return {row.goal.key: row for row in rows}


def collapsed(rows: Iterable[Row], committed: Mapping[str, Row]) -> list[str]:
    """A line for each row whose best pair is less than half as good as the committed value.

    Something else on the machine may spoil a pair, but hardly all of them.  A row that is new is none.
    """
    lines = []
    for row in rows:
        before = committed.get(row.goal.key)
        if before is None:
            continue
        limit = before.value * _COLLAPSE if row.goal.lower else before.value / _COLLAPSE
        if not row.goal.reached(row.best, limit):
            lines.append(f"{row.goal.what}: {row.best:.2f} {row.goal.unit} at best, committed {before.value:.2f}")
    return lines
