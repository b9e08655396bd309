"""Tests of iser.sg.strategies.indirect: what an SG list refuses, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from iser.rdma.api import MrType
from iser.sg.strategies import FallbackReason, Indirect
from tests.sg.devices import PLAIN
from tests.sg.lists import carve
from tests.sg.strategies.site import ONE_BYTE_GAP, costs, made, refusal


@pytest.mark.parametrize(
    ("spans", "limits", "reason"),
    [
        (ONE_BYTE_GAP, {}, None),
        (ONE_BYTE_GAP, {"max_sg_list": 2}, None),
        (ONE_BYTE_GAP, {"max_sg_list": 1}, FallbackReason.OVERSIZE),
        (ONE_BYTE_GAP, {"caps": PLAIN}, FallbackReason.NO_CAP),
    ],
)
def test_an_sg_list_needs_a_device_that_has_it(
    spans: list[tuple[int, int]], limits: dict[str, Any], reason: FallbackReason | None
) -> None:
    assert refusal(made(Indirect, **limits), carve(spans)) is reason


def test_a_list_is_padded_to_four_elements() -> None:
    assert costs(made(Indirect)) == (MrType.SG_GAPS, 1, 64)
