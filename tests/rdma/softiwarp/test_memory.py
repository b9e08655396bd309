"""Memory regions and their keys."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import MemoryRegionError, ResourceError, TerminateError
from iser.rdma.api import Access, MrType, RegMr, inc_rkey
from iser.rdma.softiwarp.device import SoftProtectionDomain
from iser.rdma.softiwarp.memory import REMOTE_READ, REMOTE_WRITE, KeyTable, SoftMemoryRegion, fill, slices_of
from iser.rdma.softiwarp.options import DEFAULT_ATTRIBUTES, SoftIwarpOptions
from tests.rdma.softiwarp.support import ALL, Elements, buffer, new_device

PAGE = 4096


class Placed:
    """A scatter list with given addresses."""

    def __init__(self, *elements: tuple[int, int]) -> None:
        self.addresses = [address for address, _ in elements]
        self.lengths = [length for _, length in elements]
        self.views = [buffer(length) for length in self.lengths]
        self.length = sum(self.lengths)


def alloc(pd: SoftProtectionDomain, kind: MrType = MrType.SG_GAPS, entries: int = 8) -> SoftMemoryRegion:
    mr = pd.alloc_mr(kind, entries)
    assert isinstance(mr, SoftMemoryRegion)
    return mr


def valid(pd: SoftProtectionDomain, views: list[memoryview], access: Access = ALL) -> SoftMemoryRegion:
    mr = alloc(pd)
    mr.map_sg(Elements(views))
    mr.register(RegMr(None, mr, inc_rkey(mr.rkey), access))
    return mr


@pytest.fixture
def pd() -> SoftProtectionDomain:
    return new_device().alloc_pd()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.data())
def test_slices_are_the_bytes_of_the_concatenation(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    whole = bytes(range(256))[:total] + bytes(max(0, total - 256))
    starts = [0, *accumulate(sizes[:-1])]
    views = [memoryview(whole)[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    offset = data.draw(st.integers(0, total))
    length = data.draw(st.integers(0, total - offset))
    pieces = slices_of(views, starts, offset, length)
    assert b"".join(pieces) == whole[offset : offset + length]
    assert all(pieces)


def test_indexes_start_anywhere_and_never_at_zero() -> None:
    starts = {KeyTable(100).reserve() for _ in range(8)}
    assert len(starts) > 1
    assert all(0 < start <= 0xFFFFFF for start in starts)


def test_the_index_wraps_past_zero() -> None:
    table = KeyTable(100)
    table._next = 0xFFFFFF - 1
    assert [table.reserve(), table.reserve(), table.reserve()] == [0xFFFFFF, 1, 2]


def test_the_table_is_limited_and_indexes_come_back() -> None:
    table = KeyTable(2)
    first = table.reserve()
    table.reserve()
    with pytest.raises(ResourceError, match="2 memory keys"):
        table.reserve()
    table.release(first)
    table.reserve()


def test_register_makes_valid_and_invalidate_makes_free(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd)
    assert not mr.valid
    mr.map_sg(Elements([buffer(10), buffer(20)]), offset=3)
    key = inc_rkey(mr.rkey)
    mr.register(RegMr(None, mr, key, ALL))
    assert (mr.valid, mr.rkey, mr.length, mr.iova) == (True, key, 27, 0x7F0000001003)
    assert pd.valid_keys == 1
    with pytest.raises(MemoryRegionError, match="is valid"):
        mr.map_sg(Elements([buffer(1)]))
    with pytest.raises(MemoryRegionError, match="is valid"):
        mr.register(RegMr(None, mr, inc_rkey(key), ALL))
    mr.invalidate()
    assert pd.valid_keys == 0
    with pytest.raises(MemoryRegionError, match="map_sg first"):
        mr.register(RegMr(None, mr, inc_rkey(key), ALL))


def test_a_key_of_another_index_is_refused(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd)
    mr.map_sg(Elements([buffer(1)]))
    with pytest.raises(MemoryRegionError, match="another index"):
        mr.register(RegMr(None, mr, mr.rkey ^ 0x100, ALL))


def test_read_only_memory_cannot_be_written_remotely(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd)
    mr.map_sg(Elements([memoryview(b"fixed")]))
    with pytest.raises(MemoryRegionError, match="read-only"):
        mr.register(RegMr(None, mr, mr.rkey, Access.REMOTE_WRITE))
    mr.register(RegMr(None, mr, mr.rkey, Access.REMOTE_READ))


def test_a_closed_region_is_gone(pd: SoftProtectionDomain) -> None:
    mr = valid(pd, [buffer(4)])
    mr.close()
    mr.close()
    assert pd.valid_keys == 0
    with pytest.raises(MemoryRegionError, match="closed"):
        mr.map_sg(Elements([buffer(1)]))
    with pytest.raises(MemoryRegionError, match="closed"):
        mr.register(RegMr(None, mr, mr.rkey, ALL))


def test_invalidation_lets_go_of_the_memory(pd: SoftProtectionDomain) -> None:
    owner = bytearray(64)
    mr = valid(pd, [memoryview(owner)])
    mr.invalidate()
    owner.extend(b"more")  # a bytearray cannot grow while somebody holds a view of it


def test_stale_variants_are_refused_for_all_256_and_the_wrap_is_the_same_key(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd)
    first = mr.rkey
    for step in range(1, 257):
        key = inc_rkey(mr.rkey)
        mr.map_sg(Elements([buffer(8)]))
        mr.register(RegMr(None, mr, key, ALL))
        assert mr.check(key, mr.iova, 8, REMOTE_READ, pd) == 0
        stale = (key & 0xFFFFFF00) | (key - 1 & 0xFF)
        with pytest.raises(TerminateError, match="0/1/00"):
            mr.check(stale, mr.iova, 8, REMOTE_READ, pd)
        mr.invalidate()
        assert (mr.rkey == first) == (step == 256)


@pytest.mark.parametrize(
    ("access", "codes"),
    [(REMOTE_WRITE, ("1/1/00", "1/1/01", "1/1/02", "1/1/03")), (REMOTE_READ, ("0/1/00", "0/1/01", "0/1/03", "0/1/04"))],
)
def test_each_rule_has_its_code(pd: SoftProtectionDomain, access: int, codes: tuple[str, ...]) -> None:
    mr = valid(pd, [buffer(10), buffer(10)])
    invalid, bounds, stranger, wrap = codes
    assert mr.check(mr.rkey, mr.iova + 19, 1, access, pd) == 19
    for stag, to, length, domain, code in (
        (mr.rkey + 1, mr.iova, 1, pd, invalid),
        (mr.rkey, mr.iova - 1, 1, pd, bounds),
        (mr.rkey, mr.iova + 20, 1, pd, bounds),
        (mr.rkey, mr.iova + 1, 20, pd, bounds),
        (mr.rkey, mr.iova, 1, new_device().alloc_pd(), stranger),
        (mr.rkey, (1 << 64) - 4, 5, pd, wrap),
    ):
        with pytest.raises(TerminateError, match=code):
            mr.check(stag, to, length, access, domain)


def test_access_must_be_granted(pd: SoftProtectionDomain) -> None:
    mr = valid(pd, [buffer(10)], Access.REMOTE_READ)
    with pytest.raises(TerminateError, match=r"REMOTE_WRITE.*0/1/02"):
        mr.check(mr.rkey, mr.iova, 1, REMOTE_WRITE, pd)
    mr = valid(pd, [buffer(10)], Access.REMOTE_WRITE)
    with pytest.raises(TerminateError, match=r"REMOTE_READ.*0/1/02"):
        mr.check(mr.rkey, mr.iova, 1, REMOTE_READ, pd)


def test_an_sg_list_takes_all_or_nothing(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd, entries=3)
    assert mr.map_sg(Elements([buffer(1), buffer(2), buffer(3)])) == 3
    for views in ([], [buffer(1)] * 4):
        with pytest.raises(MemoryRegionError):
            mr.map_sg(Elements(views))
    with pytest.raises(MemoryRegionError, match="offset 2"):
        mr.map_sg(Elements([buffer(1)]), offset=2)


@pytest.mark.parametrize(
    ("elements", "entries", "mapped"),
    [
        (((0x1000, PAGE), (0x8000, PAGE)), 2, 2),
        (((0x1200, PAGE - 0x200), (0x8000, 100)), 2, 2),  # starts late, ends early
        (((0x1000, 100), (0x2000, 100)), 8, 1),  # ends inside a page
        (((0x1000, PAGE), (0x8100, 100)), 8, 1),  # starts inside a page
        (((0x1000, 100), (0x1064, 100)), 1, 2),  # neighbours that touch are one
        (((0x1000, 100), (0x1064, PAGE)), 1, 1),  # and may need one page more than there is
        (((0x1000, PAGE), (0x8000, PAGE), (0xA000, PAGE)), 2, 2),
        (((0x1000, PAGE - 4), (0x1FFC, 8)), 2, 2),
    ],
)
def test_a_page_list_maps_the_prefix_it_can_describe(
    pd: SoftProtectionDomain, elements: tuple[tuple[int, int], ...], entries: int, mapped: int
) -> None:
    mr = alloc(pd, MrType.MEM_REG, entries)
    assert mr.map_sg(Placed(*elements)) == mapped
    assert mr.length == sum(length for _, length in elements[:mapped])


def test_a_page_list_counts_the_pages_from_the_offset(pd: SoftProtectionDomain) -> None:
    mr = alloc(pd, MrType.MEM_REG, 2)
    with pytest.raises(MemoryRegionError, match="too long"):
        mr.map_sg(Placed((0x1000, 3 * PAGE)))
    assert mr.map_sg(Placed((0x1000, 3 * PAGE)), offset=PAGE) == 1
    assert (mr.iova, mr.length) == (0x2000, 2 * PAGE)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 10)), min_size=1, max_size=6), st.integers(1, 8))
def test_a_page_list_agrees_with_a_byte_by_byte_model(steps: list[tuple[int, int]], entries: int) -> None:
    """Page size 4: every byte of the list has a place in a list of whole pages if and only if it is mapped."""
    elements, address = [], 64
    for skip, length in steps:
        address += skip
        elements.append((address, length))
        address += length
    mr = alloc(new_device().alloc_pd(), MrType.MEM_REG, entries)
    try:
        mapped = mr.map_sg(Placed(*elements), page_size=4)
    except MemoryRegionError:
        mapped = 0
    expected = max((n for n in range(1, len(elements) + 1) if _fits_pages(elements[:n], entries)), default=0)
    assert mapped == expected


def _fits_pages(elements: list[tuple[int, int]], entries: int) -> bool:
    pages: list[int] = []
    addresses = [address + i for address, length in elements for i in range(length)]
    for position, address in enumerate(addresses):
        if pages and address == addresses[position - 1] + 1 and address % 4:
            continue
        if pages and (address % 4 or (addresses[position - 1] + 1) % 4):
            return False
        pages.append(address // 4)
    return len(pages) <= entries


def test_a_region_has_a_largest_size() -> None:
    limits = replace(DEFAULT_ATTRIBUTES, max_mr_bytes=100)
    pd = new_device(SoftIwarpOptions(attributes=limits)).alloc_pd()
    mr = alloc(pd)
    assert mr.map_sg(Elements([buffer(100)])) == 1
    with pytest.raises(MemoryRegionError, match="101 bytes"):
        mr.map_sg(Elements([buffer(101)]))


def test_slices_of_a_region_reach_the_last_byte(pd: SoftProtectionDomain) -> None:
    views = [buffer(5), buffer(0), buffer(7)]
    mr = valid(pd, views)
    assert [len(piece) for piece in mr.slices(4, 3)] == [1, 2]
    assert [len(piece) for piece in mr.slices(11, 1)] == [1]


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 40))
def test_fill_puts_bytes_into_the_first_pieces(lengths: list[int], count: int) -> None:
    pieces = [buffer(length) for length in lengths]
    data = bytes(range(1, 1 + min(count, sum(lengths))))
    fill(pieces, memoryview(data))
    assert b"".join(pieces) == data.ljust(sum(lengths), b"\0")
