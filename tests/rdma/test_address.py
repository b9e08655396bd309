"""Addresses, by reading what lies there."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from iser.rdma.address import address_of

DATA = bytes(range(256))


def mapped() -> memoryview:
    memory = mmap.mmap(-1, len(DATA))
    memory[:] = DATA
    return memoryview(memory)


@pytest.mark.parametrize(
    "view",
    [
        memoryview(DATA),
        memoryview(bytearray(DATA)),
        memoryview(bytearray(DATA)).toreadonly(),
        mapped(),
        mapped().toreadonly(),
        memoryview(DATA).cast("I"),
    ],
    ids=["bytes", "bytearray", "read-only bytearray", "mmap", "read-only mmap", "bytes as words"],
)
def test_the_address_is_where_the_bytes_are(view: memoryview) -> None:
    address = address_of(view)
    assert ctypes.string_at(address, view.nbytes) == DATA
    assert address_of(view[1:]) == address + view.itemsize
    assert ctypes.string_at(address_of(view[5:6]), view.itemsize) == DATA[5 * view.itemsize : 6 * view.itemsize]


def test_asking_leaves_no_export_behind() -> None:
    data = bytearray(DATA)
    for view in (memoryview(data), memoryview(data).toreadonly()):
        address_of(view)
        view.release()
    data.clear()  # BufferError if anybody still looked at it
