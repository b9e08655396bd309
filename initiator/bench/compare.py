"""Two results, case by case: ratios with confidence, and whether the second is worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Final

from rich.console import Console
from rich.table import Table

from initiator.bench.result import COUNTS, Result
from initiator.bench.table import number
from iser.errors import UsageError

__all__ = ["Comparison", "compare", "differences", "ratio_interval", "show_comparison"]

#: Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1 on; beyond the table the normal's.
_T95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL95: Final = 1.96


#: What has to be equal for times to tell of the code.
ENVIRONMENT: Final = ("fabric", "machine", "processor", "processors", "system", "python", "event_loop", "optimised")
SETTINGS: Final = ("seconds", "seed", "fresh")


@dataclass(frozen=True, slots=True)
class Comparison:
    """``ratio`` is second / first in bytes a second, with its 95 % interval; ``counts`` are those that differ."""

    key: str
    ratio: float
    low: float
    high: float
    counts: dict[str, tuple[float, float]]

    def worse(self, threshold: float) -> bool:
        """True when it is slower by more than ``threshold`` beyond doubt, or when an exact count went up."""
        slower = self.ratio < 1 - threshold and self.high < 1
        return slower or any(after > before for before, after in self.counts.values())


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """second / first and its 95 % interval, by Welch's t on logarithms; without limits below 2 repeats."""
    a, b = [math.log(rate) for rate in first], [math.log(rate) for rate in second]
    middle = fmean(b) - fmean(a)
    if min(len(a), len(b)) < 2:
        return math.exp(middle), 0.0, math.inf
    va, vb = variance(a) / len(a), variance(b) / len(b)
    error = math.sqrt(va + vb)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if va + vb else len(a) + len(b) - 2
    quantile = _T95[int(freedom) - 1] if int(freedom) <= len(_T95) else _NORMAL95
    return math.exp(middle), math.exp(middle - quantile * error), math.exp(middle + quantile * error)


def compare(first: Result, second: Result) -> list[Comparison]:
    """The cases that both have.  Raises UsageError where that is none."""
    before = {each.case.key: each for each in first.measurements}
    found = []
    for each in second.measurements:
        old = before.get(each.case.key)
        if old is None:
            continue
        pairs: dict[str, tuple[float, float]] = {
            name: (old.counts[name], each.counts[name]) for name in COUNTS if name in old.counts and name in each.counts
        }
        # A count that depends on how often a pool had to grow is no property of the code.
        differ = {name: pair for name, pair in pairs.items() if abs(pair[0] - pair[1]) > 0.01 * max(1.0, pair[0])}
        found.append(Comparison(each.case.key, *ratio_interval(old.rates, each.rates), differ))
    if not found:
        raise UsageError("the two results have no case in common; compare runs of the same matrix")
    return found


def differences(first: Result, second: Result) -> list[str]:
    """What else than the code differs between two runs, so that ratios of their times may tell of that instead."""
    pairs = [
        (name, before.get(name), after.get(name))
        for before, after, names in (
            (first.environment, second.environment, ENVIRONMENT),
            (first.settings, second.settings, SETTINGS),
        )
        for name in names
    ]
    return [f"{name}: {one} and {two}" for name, one, two in pairs if one != two]


def show_comparison(found: Sequence[Comparison], threshold: float, console: Console) -> int:
    """A table, and how many are worse."""
    table = Table(title=f"second / first, 95 % confidence; worse beyond {threshold:.0%}", title_justify="left")
    table.add_column("case", no_wrap=True)
    for name in ("ratio", "low", "high"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for each in found:
        notes = [f"{name} {number(a)} to {number(b)}" for name, (a, b) in each.counts.items()]
        if each.worse(threshold):
            notes.insert(0, "WORSE")
        table.add_row(
            each.key, f"{each.ratio:.3f}", f"{each.low:.3f}", f"{each.high:.3f}", ", ".join(notes),
            style="bold" if each.worse(threshold) else "",
        )  # fmt: skip
    console.print(table)
    worse = sum(each.worse(threshold) for each in found)
    overall = math.exp(fmean(math.log(each.ratio) for each in found))
    console.print(f"{len(found)} cases, {worse} worse; geometric mean of the ratios {overall:.3f}", highlight=False)
    return worse
