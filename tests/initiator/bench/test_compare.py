from __future__ import annotations

import io

import pytest
from rich.console import Console

from initiator.bench.cases import Case
from initiator.bench.compare import compare, differences, ratio_interval, show_comparison
from initiator.bench.result import Result
from iser.errors import UsageError
from tests.initiator.bench.results import made_up, measurement

CASE = Case("indirect", "S8", 65536, True, 8, "remote")


def short(speed: float = 1.0) -> Result:
    result = made_up(speed)
    result.measurements = result.measurements[:20]
    return result


def worse(first: Result, second: Result, threshold: float = 0.05) -> int:
    return show_comparison(compare(first, second), threshold, Console(file=io.StringIO(), width=200))


def test_equal_results_are_not_worse() -> None:
    assert worse(short(), short()) == 0
    assert all(each.ratio == pytest.approx(1) for each in compare(made_up(), made_up()))


def test_a_loss_beyond_the_threshold_counts() -> None:
    assert worse(short(), short(0.9)) == 20
    assert worse(short(), short(0.9), 0.2) == 0
    assert worse(short(0.9), short()) == 0


def test_a_loss_in_doubt_does_not() -> None:
    first, second = [1.0, 2.0, 0.5, 1.5, 0.8], [0.9, 1.8, 0.4, 1.4, 0.7]
    ratio, low, high = ratio_interval(first, second)
    assert low < ratio < 0.95
    assert high > 1
    assert ratio_interval([1.0], [2.0]) == (2.0, 0.0, float("inf"))


def test_the_interval_is_that_of_welch() -> None:
    ratio, low, high = ratio_interval([100, 101, 99, 100, 100], [50, 51, 49, 50, 50])
    assert ratio == pytest.approx(0.5, rel=1e-3)
    assert 0.48 < low < 0.5 < high < 0.52


def test_an_exact_count_that_went_up_is_worse_however_fast_it_is() -> None:
    first = Result("unaligned", {}, {}, [measurement(CASE)])
    second = Result("unaligned", {}, {}, [measurement(CASE, 2e9, bytes_copied=65536)])
    assert worse(first, second) == 1
    assert worse(second, first) == 1  # not for the count, but it is half as fast


def test_nothing_in_common() -> None:
    with pytest.raises(UsageError, match="no case in common"):
        compare(made_up(), Result("unaligned", {}, {}))


def test_what_else_differs_is_told() -> None:
    first = Result("unaligned", {"processor": "one", "started": "now", "load": [1]}, {"seed": 1, "cases": 2})
    second = Result("unaligned", {"processor": "two", "started": "then", "load": [2]}, {"seed": 2, "cases": 3})
    assert differences(first, second) == ["processor: one and two", "seed: 1 and 2"]
    assert differences(first, first) == []
