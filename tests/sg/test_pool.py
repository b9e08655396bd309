"""Tests of iser.sg.pool: bounds, reuse, and what is given back."""

from __future__ import annotations

import pytest

from iser.errors import PoolEmpty
from iser.rdma.api import MrType
from iser.sg import RegistrationCounters, SgList
from iser.sg.pool import MAX_ARENAS, MAX_IDLE_BOUNCE, ArenaPool, BouncePool, RegionPool, SlotPool
from tests.sg.devices import domain


@pytest.mark.parametrize("kind", list(MrType))
def test_regions_are_made_on_demand_up_to_the_limit(kind: MrType) -> None:
    pd, _ = domain()
    pool = RegionPool(pd, kind, 16, limit=2)
    first, second = pool.take(), pool.take()
    assert (first.kind, first.max_num_sg) == (kind, 16)
    with pytest.raises(PoolEmpty, match="all 2 memory regions"):
        pool.take()
    pool.give(first)
    assert pool.take() is first
    pool.give(first)
    pool.give(second)
    assert (pool.in_use, pool.high_water) == (0, 2)


def test_the_region_that_was_idle_longest_is_handed_out_first() -> None:
    """A peer's late access with a key that never changes is not to hit the command that comes next."""
    pd, _ = domain()
    pool = RegionPool(pd, MrType.MEM_REG, 16, limit=3)
    regions = [pool.take() for _ in range(3)]
    for each in (regions[1], regions[2], regions[0]):
        pool.give(each)
    assert [pool.take() for _ in range(3)] == [regions[1], regions[2], regions[0]]


def test_a_region_that_the_device_refuses_is_not_counted() -> None:
    pd, _ = domain()
    pool = RegionPool(pd, MrType.MEM_REG, 1 << 30, limit=2)
    with pytest.raises(Exception, match="region"):
        pool.take()
    assert pool.in_use == 0


def test_bounce_memory_is_page_aligned_and_reused() -> None:
    pd, _ = domain()
    counters = RegistrationCounters()
    pool = BouncePool(pd, counters)
    memory = pool.take(5000)
    assert len(memory) == 8192
    assert SgList.of(memory, writable=True).addresses[0] % 4096 == 0
    assert (counters.allocations, pool.in_use) == (2, 8192)
    pool.give(memory)
    assert pool.take(8192) is memory
    assert counters.allocations == 2


def test_bounce_memory_that_is_not_kept_is_of_whole_pages_and_new_for_each_command() -> None:
    pd, _ = domain()
    counters = RegistrationCounters()
    pool = BouncePool(pd, counters)
    pool.keep = False
    memory = pool.take(3 * 4096 + 1)
    assert len(memory) == 4 * 4096
    assert SgList.of(memory, writable=True).addresses[0] % 4096 == 0
    pool.give(memory)
    assert pool.take(3 * 4096 + 1) is not memory
    assert counters.allocations == 8


def test_what_was_not_made_to_be_kept_is_no_memory_for_a_larger_command() -> None:
    """The strategy may change while commands are on their way."""
    pd, _ = domain()
    pool = BouncePool(pd, RegistrationCounters())
    pool.keep = False
    odd = pool.take(3 * 4096)
    pool.keep = True
    pool.give(odd)
    assert len(pool.take(4 * 4096)) == 4 * 4096
    assert pool.in_use == 4 * 4096


def test_bounce_memory_has_a_limit_that_one_large_piece_may_pass() -> None:
    pd, _ = domain()
    pool = BouncePool(pd, RegistrationCounters(), limit=8192)
    large = pool.take(1 << 20)
    with pytest.raises(PoolEmpty):
        pool.take(1)
    pool.give(large)
    held = [pool.take(4096), pool.take(4096)]
    with pytest.raises(PoolEmpty):
        pool.take(1)
    for memory in held:
        pool.give(memory)
    assert (pool.in_use, pool.high_water) == (0, 1 << 20)


def test_idle_bounce_memory_is_let_go_beyond_a_limit() -> None:
    pd, _ = domain()
    counters = RegistrationCounters()
    pool = BouncePool(pd, counters)
    held = [pool.take(MAX_IDLE_BOUNCE // 2) for _ in range(3)]
    for memory in held:
        pool.give(memory)
    before = counters.allocations
    for _ in range(3):
        pool.take(MAX_IDLE_BOUNCE // 2)
    assert (counters.allocations - before) * 4096 == MAX_IDLE_BOUNCE // 2


def test_slots_keep_their_region_and_have_a_limit() -> None:
    pd, _ = domain()
    pool = SlotPool(pd, RegistrationCounters(), limit=16384)
    slot = pool.take(100)
    pool.give(slot)
    assert pool.take(4096) is slot
    large = pool.take(8192)
    with pytest.raises(PoolEmpty):
        pool.take(8192)
    pool.give(large)
    small = pool.take(4096)  # the last of the limit
    assert pool.take(4096) is large  # a larger idle one serves as well
    for each in (slot, small, large):
        pool.give(each)
    assert pool.in_use == 0


def test_arenas_are_registered_once_for_each_object_and_have_a_limit() -> None:
    pd, attributes = domain()
    pool = ArenaPool(pd, attributes)
    objects = [bytearray(64) for _ in range(MAX_ARENAS + 1)]
    views = [memoryview(each) for each in objects]
    arenas = [pool.take(view) for view in views[:-1]]
    assert pool.take(views[0][10:20]) is arenas[0]
    assert not pool.has_room(views[-1])
    assert pool.has_room(views[0])
    for arena in [*arenas, arenas[0]]:
        pool.give(arena)
    assert pool.in_use == 0
