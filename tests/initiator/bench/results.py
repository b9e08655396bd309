"""Results made up for tests: every number known."""

from __future__ import annotations

from initiator.bench.cases import CORE, Case, cases_of
from initiator.bench.histogram import Histogram
from initiator.bench.result import COUNTS, Measurement, Result, Slice

__all__ = ["made_up", "measurement"]


def measurement(case: Case, rate: float = 1e9, **counts: float) -> Measurement:
    """A case that ran at ``rate`` bytes a second, give or take a hundredth."""
    ios = 100
    slices = [Slice(ios * case.size / (rate * (0.99 + 0.005 * number)), ios, 10**6, 2 * 10**6) for number in range(5)]
    about = {"class": "BYTE_GAPPY", "elements": 17, "gaps": 16, "blocks": 17, "flags": []}
    known = (
        dict.fromkeys(COUNTS, 0.0) | {"work_requests": 2, "stags": 1, "commands": 1, "target_operations": 1} | counts
    )
    return Measurement(case, slices, Histogram.of(range(1000, 200_000, 777)), known, {}, about, {}, 4, "00")


def made_up(speed: float = 1.0) -> Result:
    """The core cut, as if measured."""
    found = []
    for number, case in enumerate(cases_of(CORE, embedded=True)):
        copied = case.size if "bounce" in case.strategy else 0
        found.append(measurement(case, speed * 1e8 * (1 + number % 7), bytes_copied=copied, list_entries=number % 5))
    return Result("unaligned", {"fabric": "made up"}, {"seconds": 1}, found)
