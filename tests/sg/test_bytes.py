"""What the peer sees of a list, under every strategy, against plain bytes: on the embedded RNIC's own regions."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ResourceError, TerminateError
from iser.rdma.softiwarp.memory import REMOTE_READ, REMOTE_WRITE, SoftMemoryRegion
from iser.sg import STRATEGY_NAMES, Direction, Planner, Registration, SgList
from iser.sg.strategies import Resources
from iser.sg.strategies.multi_mr import MultiMr
from iser.sg.strategies.split import runs
from tests.sg.devices import domain, planner
from tests.sg.lists import Arena, pieces

SIZE = 1 << 20
spans = st.one_of(pieces(1), pieces(512), pieces(4096, 4), st.just([(123, 4567)]))
strategies = st.sampled_from(STRATEGY_NAMES)


def carry_out(registration: Registration) -> SoftMemoryRegion:
    """Do what the RNIC does with the posted work."""
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    for work in registration.work:
        region.register(work)
    return region


def end(plan: Planner, registration: Registration, arrived: int) -> None:
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    if not registration.long_lived:
        region.invalidate()
    plan.release(registration, arrived)


def remote(registration: Registration, offset: int, length: int, access: int) -> list[memoryview]:
    """The memory behind ``length`` bytes that a peer names by key and address."""
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    at = region.check(registration.rkey, registration.iova + offset, length, access, region.pd)
    return region.slices(at, length)


@settings(deadline=None, max_examples=60)
@given(spans, strategies, st.integers(0, 1 << 32))
def test_remote_byte_j_is_byte_j_of_the_list(cut: list[tuple[int, int]], strategy: str, seed: int) -> None:
    randomness = random.Random(seed)
    plan = planner(strategy=strategy)
    arena = Arena()
    arena.memory[:] = randomness.randbytes(SIZE)
    sg = SgList.of(arena.cut(cut), writable=True)
    # What a write offers.
    out = plan.register(sg, Direction.WRITE)
    carry_out(out)
    at = randomness.randrange(sg.length)
    length = randomness.randrange(1, sg.length - at + 1)
    assert b"".join(remote(out, at, length, REMOTE_READ)) == sg.gather()[at : at + length]
    end(plan, out, 0)
    # Where a read goes, in two parts, and not a byte beside it.
    model = bytearray(arena.memory)
    data = randomness.randbytes(sg.length)
    back = plan.register(sg, Direction.READ)
    carry_out(back)
    for start, stop in ((at, sg.length), (0, at)):
        place = start
        for view in remote(back, start, stop - start, REMOTE_WRITE) if stop > start else ():
            view[:] = data[place : place + len(view)]
            place += len(view)
    end(plan, back, sg.length)
    place = 0
    for offset, size in cut:
        model[offset : offset + size] = data[place : place + size]
        place += size
    assert arena.memory == model
    assert plan.in_use == 0


@pytest.mark.parametrize("strategy", [name for name in STRATEGY_NAMES if name not in ("dma_key", "bounce_pool")])
def test_a_key_is_refused_after_its_command_until_256_others_have_been(strategy: str) -> None:
    plan = planner(strategy=strategy)
    sg = SgList.of(Arena().cut([(512, 3584), (8192, 100)]), writable=True)
    registration = plan.register(sg, Direction.READ)
    carry_out(registration)
    first = registration
    for number in range(1, 257):
        end(plan, registration, 0)
        with pytest.raises(TerminateError):
            remote(first, 0, 1, REMOTE_WRITE)
        registration = plan.register(sg, Direction.READ)
        carry_out(registration)
        assert registration.region is first.region
        assert (registration.rkey == first.rkey) == (number == 256)
    # The variant has 8 bits: this is the same key again.  The memory may be another, where it is allocated anew.
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    assert region.check(first.rkey, registration.iova, 1, REMOTE_WRITE, region.pd) == 0


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize("direction", Direction)
def test_no_peer_reaches_beyond_the_list_or_further_than_its_direction(strategy: str, direction: Direction) -> None:
    plan = planner(strategy=strategy)
    sg = SgList.of(Arena().cut([(4096, 4096)] if strategy == "dma_key" else [(5, 100), (300, 7)]), writable=True)
    registration = plan.register(sg, direction)
    carry_out(registration)
    if registration.long_lived:
        return  # what such keys open is all of the slot or object, which is why they are a choice of their own
    access, other = (REMOTE_WRITE, REMOTE_READ) if direction is Direction.READ else (REMOTE_READ, REMOTE_WRITE)
    for offset, length, how in ((0, sg.length + 1, access), (-1, 1, access), (sg.length, 1, access), (0, 1, other)):
        with pytest.raises(TerminateError):
            remote(registration, offset, length, how)


@pytest.mark.parametrize("strategy", ["bounce", "bounce_pool"])
@pytest.mark.parametrize("arrived", [0, 1, 60, 107])
def test_a_copy_brings_back_what_arrived_and_no_more(strategy: str, arrived: int) -> None:
    plan = planner(strategy=strategy)
    arena = Arena()
    arena.memory[:] = b"\xa5" * SIZE
    sg = SgList.of(arena.cut([(5, 100), (300, 7)]), writable=True)
    registration = plan.register(sg, Direction.READ)
    carry_out(registration)
    for view in remote(registration, 0, sg.length, REMOTE_WRITE):
        view[:] = b"\x5a" * len(view)
    end(plan, registration, arrived)
    assert sg.gather() == b"\x5a" * arrived + b"\xa5" * (107 - arrived)
    assert plan.counters.bytes_copied == arrived


tiny = st.fixed_dictionaries({"max_page_list": st.integers(1, 6), "max_sg_list": st.integers(1, 6)})


@settings(deadline=None)
@given(tiny, strategies, st.booleans(), st.lists(st.tuples(spans, st.sampled_from(Direction)), max_size=5))
def test_tiny_devices_are_never_asked_for_more_than_they_have(
    limits: dict[str, Any], strategy: str, no_bounce: bool, lists: list[tuple[list[tuple[int, int]], Direction]]
) -> None:
    no_bounce = no_bounce and "bounce" not in strategy
    plan = planner(3, limits=limits, strategy=strategy, no_bounce=no_bounce, max_bounce=64 << 10)
    held = []
    for cut, direction in lists:
        sg = SgList.of(Arena().cut(cut), writable=True)
        try:
            registration = plan.register(sg, direction)
        except ResourceError:
            continue
        carry_out(registration)
        assert len(sg) <= limits["max_sg_list"] or registration.region.kind.value == "page list"
        held.append(registration)
    assert plan.counters.stags == len(held)
    assert not (no_bounce and plan.counters.bytes_copied)
    for registration in held:
        end(plan, registration, registration.length)
    assert plan.in_use == 0


@settings(deadline=None)
@given(spans, st.integers(1, 12))
def test_several_keys_cover_the_list_in_order_or_nothing_is_taken(cut: list[tuple[int, int]], limit: int) -> None:
    pd, attributes = domain()
    resources = Resources(pd, attributes, limit, 4096, 1 << 20)
    strategy = MultiMr(resources)
    arena = Arena()
    arena.memory[:] = random.Random(1).randbytes(SIZE)
    sg = SgList.of(arena.cut(cut), writable=True)
    try:
        taken = strategy.register(sg, Direction.WRITE)
    except ResourceError:
        assert len(runs(sg, 1)) > limit
        assert resources.page_lists.in_use == 0
        return
    for registration in taken:
        carry_out(registration)
    assert b"".join(view for each in taken for view in remote(each, 0, each.length, REMOTE_READ)) == sg.gather()
    assert resources.counters.stags == len(taken) == len(runs(sg, 1))
    strategy.release(taken)
    assert resources.page_lists.in_use == 0


@pytest.mark.parametrize(("most", "keys"), [(1, 4), (2, 3), (3, 2), (8, 2)])
def test_several_keys_ask_no_region_to_join_more_pieces_than_the_device_can(most: int, keys: int) -> None:
    pd, attributes = domain(max_fragments=most)
    strategy = MultiMr(Resources(pd, attributes, 8, 4096, 1 << 20))
    arena = Arena()
    arena.memory[:] = random.Random(2).randbytes(SIZE)
    pages = [(4096 * place, 4096) for place in (8, 2, 6)]
    sg = SgList.of(arena.cut([*pages, (4096 * 11 + 1, 100)]), writable=True)
    taken = strategy.register(sg, Direction.WRITE)
    for registration in taken:
        carry_out(registration)
    assert len(taken) == keys
    assert b"".join(view for each in taken for view in remote(each, 0, each.length, REMOTE_READ)) == sg.gather()


@given(pieces(512), st.sampled_from([512, 4096]))
def test_stretches_have_no_gap_and_are_whole_sectors_or_the_list_stays_whole(
    cut: list[tuple[int, int]], sector: int
) -> None:
    sg = SgList.of(Arena().cut(cut), writable=True)
    parts = runs(sg, sector)
    assert b"".join(part.gather() for part in parts) == sg.gather()
    if len(parts) > 1:
        assert all(part.shape.gaps == 0 and part.length % sector == 0 for part in parts)
        assert len(parts) == sg.shape.gaps + 1
    else:
        assert parts == [sg]
