"""Tests of iser.sg.strategies.dma_key: the key of a whole object."""

from __future__ import annotations

from iser.sg import Direction, SgList
from iser.sg.pool import MAX_ARENAS
from iser.sg.strategies import AUTO, DmaKey, FallbackReason
from tests.sg.devices import PLAIN
from tests.sg.lists import carve
from tests.sg.strategies.site import ONE_BYTE_GAP, K, made, refusal


def test_several_elements_are_of_no_one_object() -> None:
    strategy = made(DmaKey)
    assert refusal(strategy, carve(ONE_BYTE_GAP)) is FallbackReason.UNALIGNED
    assert refusal(strategy, carve([(3, 100)])) is None
    assert strategy.fallback == AUTO


def test_an_object_has_to_fit_a_region() -> None:
    assert refusal(made(DmaKey, max_mr_bytes=K), carve([(0, 10)], 2 * K)) is FallbackReason.OVERSIZE
    assert refusal(made(DmaKey, caps=PLAIN, max_page_list=1), carve([(0, 10)], 2 * K)) is FallbackReason.OVERSIZE


def test_pieces_of_one_object_share_a_key_and_their_addresses_lie_as_they_do() -> None:
    strategy = made(DmaKey)
    memory = memoryview(bytearray(1000))
    first, second = (
        strategy.register(SgList.of(memory[at : at + 10], writable=True), Direction.READ) for at in (0, 500)
    )
    assert first.rkey == second.rkey
    assert second.iova - first.iova == 500


def test_there_is_a_limit_to_the_objects() -> None:
    strategy = made(DmaKey)
    kept = [carve([(0, 10)], K) for _ in range(MAX_ARENAS + 1)]
    for sg in kept[:-1]:
        strategy.register(sg, Direction.READ)
    assert refusal(strategy, kept[-1]) is FallbackReason.POOL_EMPTY
    assert refusal(strategy, kept[0]) is None
