"""Tests of iser.sg.strategies: what the page list, the SG list and the bounce refuse, and what each costs."""

from __future__ import annotations

from typing import Any

import pytest

from iser.rdma.api import MrType
from iser.sg import Direction, SgList
from iser.sg.strategies import BOUNCE, STRATEGIES, Bounce, FallbackReason, Frwr, Indirect, Mr512, Resources, Strategy
from tests.sg.devices import PLAIN, domain
from tests.sg.lists import carve

K = 4096
ONE_BYTE_GAP = [(0, K), (K + 1, K)]


def made(kind: type[Strategy], **limits: Any) -> Strategy:
    pd, attributes = domain(**limits)
    return kind(Resources(pd, attributes, depth=4, sg_tablesize=4096, max_bytes=1 << 20))


def refusal(strategy: Strategy, sg: SgList) -> FallbackReason | None:
    return strategy.refuses(sg, Direction.READ)


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


@pytest.mark.parametrize(("length", "reason"), [(4 * K, None), (4 * K + 1, FallbackReason.OVERSIZE)])
def test_a_bounce_takes_every_list_that_fits_a_region(length: int, reason: FallbackReason | None) -> None:
    strategy = made(Bounce, max_page_list=4)
    assert refusal(strategy, carve([(1, length - 3), (6 * K + 1, 3)])) is reason


@pytest.mark.parametrize(
    ("kind", "region", "entries", "list_bytes"),
    [(Frwr, MrType.MEM_REG, 3, 24), (Indirect, MrType.SG_GAPS, 1, 64), (Bounce, MrType.MEM_REG, 2, 16)],
)
def test_each_has_its_kind_of_region_and_its_cost(
    kind: type[Strategy], region: MrType, entries: int, list_bytes: int
) -> None:
    strategy = made(kind)
    sg = carve([(100, 2 * K)])
    registration = strategy.register(sg, Direction.READ)
    assert (registration.region.kind, registration.length) == (region, 2 * K)
    counters = strategy.resources.counters
    assert (counters.list_entries, counters.list_bytes) == (entries, list_bytes)
    assert (registration.iova % K == 0) is (kind is Bounce)


def test_names_are_those_of_the_table_and_fallbacks_exist() -> None:
    assert all(name == kind.name for name, kind in STRATEGIES.items())
    assert STRATEGIES[BOUNCE].copies
    assert {kind.fallback for kind in STRATEGIES.values()} <= {*STRATEGIES, "auto"}
