"""Tests of tests.benchmark.series: how fast a cost grows."""

from __future__ import annotations

import pytest

from tests.benchmark.series import LINEAR, Series, exponent_of

X = [1.0, 10.0, 30.0, 100.0, 300.0, 1000.0]


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_power(power: float) -> None:
    assert exponent_of(X, [7 * x**power for x in X]) == pytest.approx(power)


def test_what_is_fixed_does_not_hide_how_the_rest_grows() -> None:
    assert exponent_of(X, [50 + x * x / 100 for x in X]) > LINEAR
    assert exponent_of(X, [50 + x for x in X]) < 1.0


def test_a_series_can_be_read_back() -> None:
    series = Series("sessions", "TCP", "memory", "MiB")
    series.add(1, 2.5)
    series.add(10, 25)
    assert series.to_json()["exponent"] == 1.0
    assert Series.from_json(series.to_json()) == series


def test_a_cost_too_small_for_its_clock_counts_as_little() -> None:
    series = Series("sessions", "TCP", "a login", "s")
    for x, y in ((1, -0.01), (10, 0.0), (100, 0.5)):
        series.add(x, y)
    assert 0 < series.y[0] < 1e-5
    assert series.exponent > 0
