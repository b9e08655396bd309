from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from initiator.bench.histogram import Histogram

values = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200)


@given(values, st.sampled_from([1.0, 50.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_within_one_in_128(numbers: list[int], percent: float) -> None:
    ordered = sorted(numbers)
    exact = next(value for rank, value in enumerate(ordered, 1) if rank >= len(ordered) * percent / 100)
    assert abs(Histogram.of(numbers).percentile(percent) - exact) <= exact / 128


@given(values, values)
def test_sums_and_json_keep_everything(first: list[int], second: list[int]) -> None:
    both = Histogram.of(first)
    both.add(Histogram.of(second))
    again = Histogram.from_json(both.to_json())
    assert again.counts == Histogram.of(first + second).counts
    assert again.total == len(first) + len(second)
    points = again.cumulative()
    assert points == sorted(points)
    assert points[-1][1] == 1.0


def test_nothing() -> None:
    assert Histogram().percentile(50) == 0
    assert Histogram().cumulative() == []
