"""Tests of iser.sg.strategies.bounce: what a copy refuses, and what it costs."""

from __future__ import annotations

import pytest

from iser.rdma.api import MrType
from iser.sg import Direction
from iser.sg.strategies import Bounce, FallbackReason
from tests.sg.lists import carve
from tests.sg.strategies.site import K, costs, made, refusal


@pytest.mark.parametrize(("length", "reason"), [(4 * K, None), (4 * K + 1, FallbackReason.OVERSIZE)])
def test_a_bounce_takes_every_list_that_fits_a_region(length: int, reason: FallbackReason | None) -> None:
    strategy = made(Bounce, max_page_list=4)
    assert refusal(strategy, carve([(1, length - 3), (6 * K + 1, 3)])) is reason


def test_it_is_a_page_list_over_pages_of_our_own() -> None:
    assert costs(made(Bounce)) == (MrType.MEM_REG, 2, 16)
    registration = made(Bounce).register(carve([(100, 2 * K)]), Direction.READ)
    assert registration.iova % K == 0


def test_a_write_is_copied_at_once_and_a_read_when_it_is_over() -> None:
    strategy = made(Bounce)
    strategy.register(carve([(1, 700), (2000, 100)]), Direction.WRITE)
    assert strategy.resources.counters.bytes_copied == 800
    registration = strategy.register(carve([(1, 700), (2000, 100)]), Direction.READ)
    assert strategy.resources.counters.bytes_copied == 800
    assert registration.release(750) == 750
