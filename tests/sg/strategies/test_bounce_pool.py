"""Tests of iser.sg.strategies.bounce_pool: slots that are registered once."""

from __future__ import annotations

import pytest

from iser.sg import Direction
from iser.sg.strategies import BouncePooled, FallbackReason
from iser.sg.strategies.bounce_pool import MAX_SLOT
from tests.sg.devices import carry_out
from tests.sg.lists import carve
from tests.sg.strategies.site import ONE_BYTE_GAP, K, made, refusal, resources


@pytest.mark.parametrize(
    ("length", "pages", "reason"),
    [
        (4 * K, 5, None),
        (4 * K, 4, FallbackReason.OVERSIZE),
        (MAX_SLOT, 1 << 20, None),
        (MAX_SLOT + 1, 1 << 20, FallbackReason.OVERSIZE),
    ],
)
def test_a_slot_has_a_limit_of_its_own_and_the_one_of_a_page_list(
    length: int, pages: int, reason: FallbackReason | None
) -> None:
    strategy = made(BouncePooled, max_page_list=pages)
    assert refusal(strategy, carve([(0, length)], MAX_SLOT + K)) is reason


def test_a_key_is_registered_for_the_first_command_and_stays() -> None:
    site = resources()
    strategy = BouncePooled(site)
    first = strategy.register(carve(ONE_BYTE_GAP), Direction.WRITE)
    assert (len(first.work), first.long_lived, site.counters.bytes_copied) == (1, True, 2 * K)
    carry_out(first)
    first.release(0)
    second = strategy.register(carve(ONE_BYTE_GAP), Direction.READ)
    assert (second.work, second.rkey) == ((), first.rkey)
    assert second.release(100) == 100
