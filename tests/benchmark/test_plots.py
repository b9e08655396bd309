"""Tests of tests.benchmark.plots: pictures come out whatever was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from initiator.bench.histogram import Histogram
from tests.benchmark.fairness import Meeting
from tests.benchmark.plots import draw_fairness, draw_growth
from tests.benchmark.series import Series

PNG = b"\x89PNG"


@pytest.mark.parametrize("points", [2, 7, 9])
def test_growth_has_a_picture_however_many_points_there_are(tmp_path: Path, points: int) -> None:
    x = [float(4**number) for number in range(points)]
    series = [
        Series("sessions", line, what, "us", x, [value * scale for value in x])
        for scale, what in enumerate(("flat: target", "steep", "steeper", "last"), start=1)
        for line in ("iSER", "TCP")
    ]
    draw_growth([*series, Series("sessions", "both", "a start", "s", x, [3.0] * points)], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(PNG)


def test_fairness_has_a_picture_also_of_few_reads(tmp_path: Path) -> None:
    one, many = Histogram.of([100_000]), Histogram.of(range(100_000, 20_000_000, 10_000))
    meetings = [Meeting(reader, writer, one, many, [1e9]) for reader in ("iSER", "TCP") for writer in ("iSER", "TCP")]
    draw_fairness(meetings, tmp_path / "fairness.png")
    assert (tmp_path / "fairness.png").read_bytes().startswith(PNG)
