"""Tests of iser.sg.sglist."""

from __future__ import annotations

import array
import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import UsageError
from iser.sg import SgList, scatter, slice_views
from iser.sg.sglist import Buffer, address_of
from tests.sg.lists import Arena, pieces


def test_one_buffer_or_many() -> None:
    assert SgList.of(b"abc", writable=False).gather() == b"abc"
    assert SgList.of([b"ab", bytearray(b"c"), memoryview(b"de")], writable=False).gather() == b"abcde"
    assert SgList.of((bytearray(4),), writable=True).length == 4
    assert SgList.of(iter([b"x", b"y"]), writable=False).gather() == b"xy"


def test_arrays_are_buffers_and_not_lists_of_numbers() -> None:
    numbers = array.array("I", [1, 2])
    sg = SgList.of(numbers, writable=True)  # type: ignore[arg-type]  # the buffer protocol has no type in 3.11
    assert (len(sg), sg.length) == (1, 8)


def test_empty_pieces_are_dropped() -> None:
    sg = SgList.of([b"", b"a", b""], writable=False)
    assert (len(sg), sg.length) == (1, 1)
    assert len(SgList.of([], writable=True)) == 0


def test_neighbours_in_one_object_are_joined() -> None:
    memory = memoryview(bytearray(range(10)))
    sg = SgList.of([memory[1:4], memory[4:9]], writable=True)
    assert list(sg.lengths) == [8]
    assert sg.gather() == bytes(range(1, 9))


def test_neighbours_in_a_read_only_object_are_joined() -> None:
    memory = memoryview(bytes(range(10)))
    assert len(SgList.of([memory[:5], memory[5:]], writable=False)) == 1


def test_addresses_are_real() -> None:
    memory = memoryview(mmap.mmap(-1, 8192))
    assert address_of(memory) % mmap.PAGESIZE == 0
    assert address_of(memory[77:]) == address_of(memory) + 77
    text = memoryview(b"0123456789")
    assert address_of(text[3:]) == address_of(text) + 3


def test_read_only_memory_cannot_be_a_destination() -> None:
    with pytest.raises(UsageError, match="buffer 1 is read-only"):
        SgList.of([bytearray(2), b"no"], writable=True)


@pytest.mark.parametrize("wrong", [["text"], [1], 7, [memoryview(bytearray(8))[::2]]])
def test_what_is_no_memory_is_refused(wrong: list[Buffer]) -> None:
    with pytest.raises(UsageError):
        SgList.of(wrong, writable=False)


def test_a_bytearray_cannot_be_resized_under_a_list() -> None:
    memory = bytearray(8)
    sg = SgList.of(memory, writable=True)
    with pytest.raises(BufferError):
        memory.append(1)
    assert sg.length == 8


@given(pieces(), st.data())
def test_the_list_reads_and_writes_like_plain_bytes(spans: list[tuple[int, int]], data: st.DataObject) -> None:
    arena = Arena(1 << 13)
    arena.memory[:] = bytes(i * 31 & 0xFF for i in range(arena.size))
    plain = b"".join(arena.cut(spans))
    sg = SgList.of(arena.cut(spans), writable=True)
    assert sg.gather() == plain
    offset = data.draw(st.integers(0, sg.length))
    length = data.draw(st.integers(0, sg.length))
    assert b"".join(sg.slice(offset, length)) == plain[offset : offset + length]
    new = data.draw(st.binary(max_size=sg.length))
    sg.scatter(memoryview(new))
    assert sg.gather() == new + plain[len(new) :]


def test_slicing_and_scattering_stop_at_the_end() -> None:
    views = [memoryview(bytearray(2)), memoryview(bytearray(2))]
    assert slice_views(views, 3, 9) == [views[1][1:]]
    scatter(b"abcdefgh", views)
    assert b"".join(views) == b"abcd"


def test_neighbours_that_are_joined_stay_read_only() -> None:
    whole = memoryview(bytearray(64))
    for neighbours in ([whole[:4].toreadonly(), whole[4:8]], [whole[:4].toreadonly(), whole[4:8].toreadonly()]):
        sg = SgList.of(neighbours, writable=False)
        assert len(sg) == 1
        assert sg.readonly
        with pytest.raises(UsageError, match="read-only"):
            SgList.of(sg, writable=True)
