"""Tests of iser.sg.strategies.immediate: it registers nothing, so all that asks for a key goes elsewhere."""

from __future__ import annotations

from iser.sg import Direction
from iser.sg.strategies import AUTO, FallbackReason, Immediate
from tests.sg.lists import carve
from tests.sg.strategies.site import made, refusal


def test_what_is_asked_of_it_was_no_small_write() -> None:
    strategy = made(Immediate)
    assert refusal(strategy, carve([(0, 10)]), Direction.READ) is FallbackReason.NO_CAP
    assert refusal(strategy, carve([(0, 10)]), Direction.WRITE) is FallbackReason.OVERSIZE
    assert strategy.fallback == AUTO
