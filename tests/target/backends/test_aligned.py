"""Backends of whole sectors: what is not aligned takes the detour, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from iser.errors import UsageError
from target.backends.aligned import AlignedBackend, pieces, targets
from target.backends.base import BackendCap
from target.backends.conformance import check_backend

SECTOR = 512


class Sectors(AlignedBackend):
    """A store that insists on whole sectors, and gives way in the middle of each request."""

    def __init__(self, size: int) -> None:
        self.name = "sectors"
        self.block_size = 4096
        self.blocks = size // self.block_size
        self.read_only = False
        self.capabilities = BackendCap.NONE
        self.sector = SECTOR
        self.data = bytearray(size)
        self.requests: list[tuple[str, int, int]] = []

    def _note(self, kind: str, offset: int, buffers: Sequence[memoryview]) -> None:
        length = sum(map(len, buffers))
        assert not offset % SECTOR
        assert not length % SECTOR
        self.requests.append((kind, offset, length))

    async def _read(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self._note("read", offset, buffers)
        await asyncio.sleep(0)
        for buffer in buffers:
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        self._note("write", offset, buffers)
        await asyncio.sleep(0)
        run = b"".join(buffers)
        self.data[offset : offset + len(run)] = run

    async def flush(self) -> None:
        return

    async def close(self) -> None:
        return


async def test_it_keeps_the_contract() -> None:
    assert await check_backend(Sectors(1 << 20)) == []


async def test_aligned_requests_go_straight_through() -> None:
    backend = Sectors(1 << 16)
    await backend.writev(512, [memoryview(b"a" * 300), memoryview(b"b" * 212)], True)
    await backend.readv(1024, [memoryview(bytearray(512))])
    assert backend.requests == [("write", 512, 512), ("read", 1024, 512)]


async def test_others_read_change_and_write_whole_sectors() -> None:
    backend = Sectors(1 << 16)
    await backend.writev(510, [memoryview(b"xyz")], False)
    assert backend.requests == [("read", 0, 1024), ("write", 0, 1024)]
    assert backend.data[508:515] == b"\0\0xyz\0\0"
    await backend.writev(7, [], False)
    await backend.writev(7, [memoryview(b"")], False)
    assert len(backend.requests) == 2


async def test_neighbours_in_a_sector_do_not_lose_each_others_bytes() -> None:
    backend = Sectors(1 << 16)
    await asyncio.gather(*(backend.writev(byte, [memoryview(bytes((byte % 256,)))], False) for byte in range(1024)))
    assert backend.data[:1024] == bytes(byte % 256 for byte in range(1024))


async def test_bounds() -> None:
    backend = Sectors(1 << 16)
    with pytest.raises(UsageError, match="not within"):
        await backend.writev(65535, [memoryview(b"xy")], False)
    with pytest.raises(UsageError, match="not within"):
        await backend.update(65536, 1, lambda _: True, False)


def test_requests_are_cut_to_what_a_store_takes() -> None:
    one, two = memoryview(bytearray(b"abcde")), memoryview(bytearray(b"fg"))
    assert [(at, bytes(run)) for at, run in pieces(10, [one, two], 3)] == [(10, b"abc"), (13, b"def"), (16, b"g")]
    assert [(at, bytes(run)) for at, run in targets(10, [one, two], 3)] == [(10, b"abc"), (13, b"de"), (15, b"fg")]
    assert pieces(0, [one], 9)[0][1].obj is one.obj  # one buffer is not copied
