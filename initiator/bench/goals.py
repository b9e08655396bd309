"""The numbers that the project wants to reach, from a result that has the cases for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from initiator.bench.result import Measurement, Ratio, Result

__all__ = ["Goal", "goals_of"]

GAPPY: Final = ("S4", "S5", "S8")
LARGE: Final = 524288
WHOLE: Final = 1 << 20
DEPTH: Final = 8
DEPTHS: Final = (1, DEPTH, 32)


@dataclass(frozen=True, slots=True)
class Goal:
    """``value`` is what was measured, with its interval; ``wanted`` the least that is good enough, or what it must be.

    ``open`` is a goal missed by no more than the spread: its interval holds the goal.
    """

    what: str
    value: str
    wanted: str
    reached: bool
    open: bool = False

    @property
    def verdict(self) -> str:
        """For a table."""
        return "yes" if self.reached else "open" if self.open else "no"


def goals_of(result: Result) -> list[Goal]:
    """The goals that the result has cases for."""
    return [*_exact(result), *_indirect_against_contiguous(result), *_indirect_against_copies(result), *_raw(result)]


def _one(
    result: Result, strategy: str, shape: str, size: int, *, write: bool, depth: int = DEPTH
) -> Measurement | None:
    found = result.find(strategy=strategy, shape=shape, size=size, write=write, depth=depth)
    return next((each for each in found if each.case.invalidate != "local"), None)


def _exact(result: Result) -> list[Goal]:
    goals = []
    for shape in GAPPY:
        cases = result.find(strategy="indirect", shape=shape)
        if cases:
            names = ("bytes_copied", "stags", "target_operations")
            seen = {tuple(each.counts.get(name) for name in names) for each in cases}
            text = "; ".join(", ".join("-" if value is None else f"{value:g}" for value in values) for values in seen)
            what = f"indirect on {shape}: bytes copied, STags, target operations ({len(cases)} cases)"
            goals.append(Goal(what, text, "0, 1, 1", seen == {(0, 1, 1)}))
    return goals


def _ratio(what: str, one: Measurement | None, other: Measurement | None, wanted: float) -> list[Goal]:
    if one is None or other is None:
        return []
    return [_judged(what, [one.times(other)], wanted)]


def _judged(what: str, ratios: Sequence[Ratio], wanted: float) -> Goal:
    """Reached when each median is."""
    missed = [ratio for ratio in ratios if ratio.value < wanted]
    return Goal(
        what,
        ", ".join(map(str, ratios)),
        f">= {wanted:g}",
        reached=not missed,
        open=bool(missed) and all(ratio.high >= wanted for ratio in missed),
    )


def _indirect_against_contiguous(result: Result) -> list[Goal]:
    goals = []
    for write in (False, True):
        goals += _ratio(
            f"512 KiB {_direction(write)}, depth {DEPTH}: indirect on S8 / frwr on S0",
            _one(result, "indirect", "S8", LARGE, write=write),
            _one(result, "frwr", "S0", LARGE, write=write),
            0.92,
        )
    return goals


def _indirect_against_copies(result: Result) -> list[Goal]:
    goals = []
    for other, wanted in (("bounce", 1.15), ("bounce_pool", 1.0)):
        for shape in GAPPY:
            for size in (65536, LARGE):
                for write in (False, True):
                    goals += _at_each_depth(result, (shape, size, write), other, wanted)
    return goals


def _at_each_depth(result: Result, where: tuple[str, int, bool], other: str, wanted: float) -> list[Goal]:
    shape, size, write = where
    ratios = {}
    for depth in DEPTHS:
        one = _one(result, "indirect", shape, size, write=write, depth=depth)
        two = _one(result, other, shape, size, write=write, depth=depth)
        if one and two:
            ratios[depth] = one.times(two)
    if not ratios:
        return []
    depths = ", ".join(map(str, ratios))
    what = f"{shape} {size >> 10} KiB {_direction(write)}, depth {depths}: indirect / {other}"
    return [_judged(what, list(ratios.values()), wanted)]


def _raw(result: Result) -> list[Goal]:
    goals = []
    for write in (False, True):
        goals += _ratio(
            f"1 MiB contiguous {_direction(write)}, depth {DEPTH} / plain sockets",
            _one(result, "frwr", "S0", WHOLE, write=write),
            _one(result, "raw_tcp", "S0", WHOLE, write=write),
            0.8,
        )
    return goals


def _direction(write: bool) -> str:
    return "write" if write else "read"
