"""Tests of iser.sg.strategies.mr512: what pages of 512 bytes refuse, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from iser.rdma.api import MrType
from iser.sg.strategies import FallbackReason, Mr512
from tests.sg.lists import carve
from tests.sg.strategies.site import costs, made, refusal


@pytest.mark.parametrize(
    ("spans", "limits", "reason"),
    [
        ([(0, 512), (1024, 512)], {}, None),
        ([(0, 512), (1025, 512)], {}, FallbackReason.UNALIGNED),
        ([(0, 512), (1024, 512)], {"page_size_cap": 0xFFFFF000}, FallbackReason.NO_CAP),
        ([(0, 512), (1024, 512)], {"max_fragments": 2}, None),
        ([(0, 512), (1024, 512)], {"max_fragments": 1}, FallbackReason.FRAGMENTS),
        ([(0, 512), (1024, 512)], {"max_page_list": 1}, FallbackReason.OVERSIZE),
    ],
)
def test_a_list_of_sectors_needs_a_device_with_such_pages_that_joins_its_pieces(
    spans: list[tuple[int, int]], limits: dict[str, Any], reason: FallbackReason | None
) -> None:
    assert refusal(made(Mr512, **{"page_size_cap": 0xFFFFFE00, **limits}), carve(spans)) is reason


def test_a_list_has_an_entry_for_each_sector_that_it_touches() -> None:
    assert costs(made(Mr512, page_size_cap=0xFFFFFE00)) == (MrType.MEM_REG, 17, 136)
