"""Strategies on a device with limits of a test's choosing, and what they cost."""

from __future__ import annotations

from typing import Any

from iser.rdma.api import MrType
from iser.sg import Direction, SgList
from iser.sg.strategies import FallbackReason, Resources, Strategy
from tests.sg.devices import domain
from tests.sg.lists import carve

__all__ = ["ONE_BYTE_GAP", "K", "costs", "made", "refusal", "resources"]

K = 4096
ONE_BYTE_GAP = [(0, K), (K + 1, K)]


def resources(depth: int = 4, **limits: Any) -> Resources:
    """What a connection has for up to ``depth`` lists of 1 MiB."""
    pd, attributes = domain(**limits)
    return Resources(pd, attributes, depth=depth, sg_tablesize=4096, max_bytes=1 << 20)


def made(kind: type[Strategy], **limits: Any) -> Strategy:
    return kind(resources(**limits))


def refusal(strategy: Strategy, sg: SgList, direction: Direction = Direction.READ) -> FallbackReason | None:
    return strategy.refuses(sg, direction)


def costs(strategy: Strategy) -> tuple[MrType, int, int]:
    """The kind of region, the entries and the bytes of the list that 8 KiB off a page boundary take."""
    registration = strategy.register(carve([(100, 2 * K)]), Direction.READ)
    assert registration.length == 2 * K
    counters = strategy.resources.counters
    return registration.region.kind, counters.list_entries, counters.list_bytes
