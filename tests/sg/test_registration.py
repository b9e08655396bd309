"""Tests of iser.sg.registration: keys, copies, and what comes back."""

from __future__ import annotations

import random

import pytest

from iser.errors import PoolEmpty
from iser.rdma.api import Access, MrType, RegMr
from iser.sg import Direction, Registration, RegistrationCounters, SgList
from iser.sg.pool import ArenaPool, BouncePool, RegionPool
from iser.sg.registration import ArenaRegistration, BounceRegistration, copy_into
from tests.sg.devices import domain
from tests.sg.lists import carve


def pools(limit: int = 2) -> tuple[RegionPool, RegionPool, BouncePool]:
    pd, _ = domain()
    pages = RegionPool(pd, MrType.MEM_REG, 16, limit)
    return pages, RegionPool(pd, MrType.SG_GAPS, 16, limit), BouncePool(pd, RegistrationCounters())


def text_of(sg: SgList) -> bytes:
    return sg.gather()


@pytest.mark.parametrize(
    ("direction", "access"),
    [(Direction.READ, Access.LOCAL_WRITE | Access.REMOTE_WRITE), (Direction.WRITE, Access.REMOTE_READ)],
)
def test_the_peer_gets_no_more_access_than_its_direction_needs(direction: Direction, access: Access) -> None:
    _, lists, _ = pools()
    sg = carve([(3, 5), (100, 7)])
    registration = Registration(sg, direction, lists)
    (work,) = registration.work
    assert isinstance(work, RegMr)
    assert (work.access, work.key, registration.length) == (access, registration.rkey, 12)
    assert registration.iova == sg.addresses[0]
    assert registration.release(12) == 0
    assert lists.in_use == 0


def test_each_use_of_a_region_has_another_key() -> None:
    _, lists, _ = pools()
    keys = []
    for _ in range(3):
        registration = Registration(carve([(0, 8)]), Direction.READ, lists)
        keys.append(registration.rkey)
        registration.region.rkey = registration.rkey  # as carrying out the work request does
        registration.release(0)
    assert len(set(keys)) == 3
    assert len({key >> 8 for key in keys}) == 1


def test_a_list_that_the_region_refuses_gives_the_region_back() -> None:
    _, lists, _ = pools()
    with pytest.raises(Exception, match="17"):
        Registration(carve([(n * 10, 5) for n in range(17)]), Direction.READ, lists)
    assert lists.in_use == 0


@pytest.mark.parametrize(
    ("arrived", "expected"), [(0, b"---------"), (4, b"abcd-----"), (9, b"abcdefghi"), (99, b"abcdefghi")]
)
def test_a_bounced_read_is_copied_out_as_far_as_it_arrived(arrived: int, expected: bytes) -> None:
    pages, _, bounces = pools()
    sg = carve([(1, 2), (50, 3), (10, 4)])
    sg.scatter(memoryview(b"---------"))
    registration = BounceRegistration(sg, Direction.READ, pages, bounces)
    bounce = registration._memory
    bounce[:9] = b"abcdefghi"
    assert registration.release(arrived) == min(arrived, 9)
    assert text_of(sg) == expected
    assert (pages.in_use, bounces.in_use) == (0, 0)


def test_a_bounced_write_is_copied_in_at_once_and_never_back() -> None:
    pages, _, bounces = pools()
    sg = carve([(1, 2), (50, 3)])
    sg.scatter(memoryview(b"abcde"))
    registration = BounceRegistration(sg, Direction.WRITE, pages, bounces)
    bounce = registration._memory
    assert bytes(bounce[:5]) == b"abcde"
    bounce[:5] = b"XXXXX"
    assert registration.release(5) == 0
    assert text_of(sg) == b"abcde"


def test_a_bounce_without_a_region_gives_its_memory_back() -> None:
    pages, _, bounces = pools(limit=1)
    pages.take()
    with pytest.raises(PoolEmpty):
        BounceRegistration(carve([(0, 8)]), Direction.READ, pages, bounces)
    assert bounces.in_use == 0


@pytest.mark.parametrize("zero_based", [False, True])
def test_a_piece_of_an_arena_is_told_as_the_device_counts(zero_based: bool) -> None:
    pd, attributes = domain()
    arenas = ArenaPool(pd, attributes)
    whole = memoryview(bytearray(4096))
    base = SgList.of(whole, writable=True).addresses[0]
    arena = arenas.take(whole)
    assert arena.region.iova == base
    if zero_based:
        arena.region.iova = 0
    registration = ArenaRegistration(SgList.of(whole[100:200], writable=True), arenas)
    assert (registration.iova, registration.length) == (arena.region.iova + 100, 100)


@pytest.mark.parametrize("size", [512, 4096])
def test_pieces_are_copied_in_order_joined_or_one_by_one(size: int) -> None:
    memory = memoryview(bytearray(random.Random(1).randbytes(9 * size)))
    spans = [(place * size + 1, size) for place in (5, 0, 7, 3)]
    window = memoryview(bytearray(4 * size))
    copy_into(window, SgList.spans(memory, spans))
    assert window == b"".join(memory[start : start + length] for start, length in spans)


def test_copy_into_keeps_the_order_of_the_list() -> None:
    sg = carve([(100, 3), (0, 2)])
    sg.scatter(memoryview(b"abcde"))
    window = memoryview(bytearray(5))
    copy_into(window, sg)
    assert bytes(window) == b"abcde"
