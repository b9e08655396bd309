"""What the peer sees of a list, under every strategy, against plain bytes: on the embedded RNIC's own regions."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import ResourceError, TerminateError
from iser.rdma.softiwarp.memory import REMOTE_READ, REMOTE_WRITE, SoftMemoryRegion
from iser.sg import STRATEGY_NAMES, Direction, SgList
from tests.sg.devices import carry_out, end, planner, remote
from tests.sg.lists import Arena, spans

SIZE = 1 << 20
strategies = st.sampled_from(STRATEGY_NAMES)


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
