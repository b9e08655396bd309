"""Tests of iser.sg.strategies.frwr: what a page list refuses, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from iser.rdma.api import MrType
from iser.sg.strategies import FallbackReason, Frwr
from tests.sg.lists import carve
from tests.sg.strategies.site import ONE_BYTE_GAP, K, costs, made, refusal


@pytest.mark.parametrize(
    ("spans", "limits", "reason"),
    [
        ([(0, K)], {}, None),
        ([(5, 100)], {}, None),
        ([(K - 1, 1), (2 * K, 7)], {}, None),
        (ONE_BYTE_GAP, {}, FallbackReason.UNALIGNED),
        ([(0, 4 * K)], {"max_page_list": 4}, None),
        ([(1, 4 * K)], {"max_page_list": 4}, FallbackReason.OVERSIZE),
        ([(0, K), (2 * K, K)], {"max_fragments": 1}, FallbackReason.FRAGMENTS),
    ],
)
def test_a_page_list_needs_whole_pages_inside(
    spans: list[tuple[int, int]], limits: dict[str, Any], reason: FallbackReason | None
) -> None:
    assert refusal(made(Frwr, **limits), carve(spans)) is reason


def test_an_entry_is_the_address_of_a_page() -> None:
    assert costs(made(Frwr)) == (MrType.MEM_REG, 3, 24)
