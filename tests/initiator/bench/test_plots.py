"""Tests of initiator.bench.plots: the pictures show the numbers.  Those of the report draw them all."""

from __future__ import annotations

import numpy as np
import pytest

from initiator.bench.plots import PLOTS, STYLES, bandwidth, counts, latency
from initiator.bench.result import Result
from iser.sg import STRATEGY_NAMES
from tests.initiator.bench.results import made_up


@pytest.fixture(scope="module")
def few() -> Result:
    """A result of two shapes."""
    result = made_up()
    result.measurements = [each for each in result.measurements if each.case.shape in ("S0", "S8")]
    return result


def test_a_line_goes_through_what_was_measured(few: Result) -> None:
    figure = bandwidth(few)
    assert figure is not None
    assert len(figure.axes) == 2 * 2  # a panel for each shape and direction
    measured = few.find(shape="S8", write=False, strategy="indirect", depth=32, invalidate="remote")
    lines = [np.asarray(line.get_xydata()).tolist() for line in figure.axes[1].get_lines()]
    assert sorted([each.case.size, each.rate / 1e9] for each in measured) in lines


def test_a_ratio_stands_in_its_cell(few: Result) -> None:
    figure = PLOTS["ratio_bounce"][1](few)
    assert figure is not None
    shown = {text.get_text() for axes in figure.axes for text in axes.texts}
    one, two = (
        few.find(shape="S8", write=True, strategy=name, depth=32, size=65536)[0] for name in ("indirect", "bounce")
    )
    assert f"{one.times(two).value:.2f}" in shown


def test_what_was_not_measured_has_no_picture(few: Result) -> None:
    nothing = Result(few.kind, few.environment, few.settings, few.find(strategy="frwr")[:1])
    assert [name for name, (_, draw) in PLOTS.items() if draw(nothing) is None] == ["ratio_bounce", "ratio_bounce_pool"]
    nothing.measurements = []
    assert bandwidth(nothing) is latency(nothing) is counts(nothing) is None


def test_every_strategy_has_a_colour_and_a_marker_of_its_own() -> None:
    assert set(STRATEGY_NAMES) - {"auto"} <= set(STYLES)
    colours, markers = zip(*STYLES.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(STYLES)
