"""A histogram with high dynamic range: relative error below 1/128 whatever the value, in little memory.

Values are put in buckets that are linear within each power of two, as HdrHistogram has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Self

__all__ = ["Histogram"]

_BITS: Final = 7  # linear buckets in each power of two: 1 << _BITS


class Histogram:
    """Counts of non-negative integers, here nanoseconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0

    @classmethod
    def of(cls, values: Iterable[int]) -> Self:
        """A histogram of ``values``."""
        self = cls()
        counts = self.counts
        for value in values:
            bucket = _bucket(value)
            counts[bucket] = counts.get(bucket, 0) + 1
            self.total += 1
        return self

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Self:
        """From what :meth:`to_json` gave."""
        self = cls()
        self.counts = {int(bucket): count for bucket, count in counts.items()}
        self.total = sum(self.counts.values())
        return self

    def to_json(self) -> dict[str, int]:
        """Count by bucket number."""
        return {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)}

    def add(self, other: Histogram) -> None:
        """Take in the counts of another."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of all are at or below, to the middle of its bucket; 0 when there is none."""
        wanted = self.total * percent / 100
        seen = 0
        middle = 0.0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            low, width = _range(bucket)
            middle = low + (width - 1) / 2
            if seen >= wanted:
                break
        return middle

    def cumulative(self) -> list[tuple[float, float]]:
        """(value, share of all at or below it), ascending."""
        points, seen = [], 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            low, width = _range(bucket)
            points.append((low + (width - 1) / 2, seen / self.total))
        return points


def _bucket(value: int) -> int:
    power = max(value.bit_length() - _BITS - 1, 0)
    return (power << _BITS) + (value >> power)


def _range(bucket: int) -> tuple[int, int]:
    """The smallest value of a bucket, and how many it takes."""
    power = max((bucket >> _BITS) - 1, 0)
    return (bucket - (power << _BITS)) << power, 1 << power
