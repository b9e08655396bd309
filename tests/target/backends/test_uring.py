"""Reads and writes by io_uring, on real files; and a kernel that is short of everything."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from target.backends import uring
from target.backends.uring import ENTRIES, MAX_IN_FLIGHT, Ring


@pytest.fixture
async def ring() -> AsyncIterator[Ring]:
    found = Ring.shared()
    if found is None:
        pytest.skip("the kernel has, or allows, no io_uring")
    yield found
    assert not found._jobs
    found.release()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * 4096 + b"b" * 4096, 0)
    yield fd
    os.close(fd)


async def test_it_writes_and_reads(ring: Ring, file: int) -> None:
    data = bytearray(os.urandom(5000))
    assert await ring.move(Ring.WRITE, file, memoryview(data), 1000) == 5000
    seen = bytearray(8192)
    assert await ring.move(Ring.READ, file, memoryview(seen), 0) == 8192
    assert seen == b"a" * 1000 + data + b"b" * 2192
    assert await ring.move(Ring.READ, file, memoryview(seen), 8000) == 192
    assert await ring.move(Ring.READ, file, memoryview(seen), 1 << 20) == 0


async def test_what_the_kernel_refuses_is_a_number(ring: Ring, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert await ring.move(Ring.READ, fd, memoryview(bytearray(512)), 0) == -errno.EISDIR
    os.close(fd)
    assert await ring.move(Ring.READ, fd, memoryview(bytearray(512)), 0) == -errno.EBADF


async def test_more_than_fit_into_the_ring_at_once(ring: Ring, file: int) -> None:
    """Each in its place, however they are handed over."""
    count = 5 * ENTRIES + 7
    pieces = [bytearray(number.to_bytes(4, "big") * 128) for number in range(count)]
    moves = [ring.move(Ring.WRITE, file, memoryview(piece), 512 * number) for number, piece in enumerate(pieces)]
    assert await asyncio.gather(*moves) == [512] * count
    assert os.pread(file, 512 * count, 0) == b"".join(pieces)


async def test_requests_under_way_are_bounded(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "MAX_IN_FLIGHT", 4)
    ends = [os.pipe() for _ in range(4)]
    memory = memoryview(bytearray(1))
    waiting = [asyncio.create_task(ring.move(Ring.READ, end, memory, 0)) for end, _ in ends]
    await asyncio.sleep(0.01)
    assert await ring.move(Ring.READ, ends[0][0], memory, 0) == -errno.EBUSY
    for _, end in ends:
        os.write(end, b"x")
    assert await asyncio.gather(*waiting) == [1] * 4
    for fd in (fd for end in ends for fd in end):
        os.close(fd)
    assert ring._at.cq_entries >= MAX_IN_FLIGHT


async def test_a_cancelled_request_is_waited_out(ring: Ring) -> None:
    """What ends later is told by the event; until then the memory is the kernel's."""
    read_end, write_end = os.pipe()
    memory = bytearray(4)
    read = asyncio.create_task(ring.move(Ring.READ, read_end, memoryview(memory), 0))
    await asyncio.sleep(0.01)
    for _ in range(2):
        read.cancel()
        await asyncio.sleep(0.01)
        assert not read.done()
    os.write(write_end, b"late")
    with pytest.raises(asyncio.CancelledError):
        await read
    assert memory == b"late"
    os.close(read_end)
    os.close(write_end)


async def test_a_kernel_that_is_short_of_memory_is_asked_again(
    ring: Ring, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = uring._enter, [-1, -1]
    monkeypatch.setattr(uring, "_enter", lambda *arguments: refusals.pop() if refusals else real(*arguments))
    moves = [ring.move(Ring.WRITE, file, memoryview(bytearray(b"x" * 8)), 8 * number) for number in range(3)]
    assert await asyncio.gather(*moves) == [8] * 3
    assert os.pread(file, 24, 0) == b"x" * 24


async def test_what_finds_no_place_is_refused(ring: Ring, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = uring._enter
    monkeypatch.setattr(uring, "_enter", lambda *_: -1)
    memory = memoryview(bytearray(8))
    moves = [ring.move(Ring.READ, file, memory, 0) for _ in range(ENTRIES)]
    assert await asyncio.gather(*moves) == [-errno.EBUSY] * ENTRIES
    monkeypatch.setattr(uring, "_enter", real)
    assert await ring.move(Ring.READ, file, memory, 0) == 8


async def test_the_users_of_a_loop_share_a_ring(ring: Ring) -> None:
    assert Ring.shared() is ring
    ring.release()
    assert Ring.shared() is ring
    ring.release()


@pytest.mark.parametrize("refused", [uring._SETUP, uring._REGISTER])
async def test_without_io_uring_there_is_none(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    real = uring._libc.syscall

    class Kernel:
        """One that knows not all system calls."""

        @staticmethod
        def syscall(number: int, *arguments: object) -> int:
            if number != refused:
                return int(real(number, *arguments))
            ctypes.set_errno(errno.EPERM)
            return -1

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(uring, "_libc", Kernel)
    assert Ring.shared() is None
    assert set(os.listdir("/proc/self/fd")) == before
