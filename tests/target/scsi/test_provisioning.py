"""UNMAP and GET LBA STATUS."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from target.backends.base import Backend
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import GOOD
from target.scsi.provisioning import MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

BLOCKS = SIZE // 512


def unmap_cdb(length: int, flags: int = 0) -> bytes:
    return struct.pack(">BB5xHx", 0x42, flags, length)


def unmap_list(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in ranges)
    return struct.pack(">HH4x", len(body) + 6, len(body)) + body


def status_cdb(lba: int, allocation: int = 4096) -> bytes:
    return struct.pack(">BBQIxx", 0x9E, 0x12, lba, allocation)


async def statuses(bench: Bench, lba: int, allocation: int = 4096) -> list[tuple[int, int, int]]:
    data = (await bench.run(status_cdb(lba, allocation))).data_in
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return list(struct.iter_unpack(">QIB3x", data[8:]))


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_unmapped_blocks_read_as_zeros_and_are_told(kind: str, tmp_path: Path) -> None:
    backend: Backend = MemoryBackend(SIZE) if kind == "memory" else FileBackend(tmp_path / "disk", SIZE)
    bench = Bench(unit(backend, thin=True))
    await backend.writev(0, [memoryview(b"x" * SIZE)], True)
    assert await statuses(bench, 3) == [(3, BLOCKS - 3, 0)]
    data = unmap_list((8, 16), (64, 0), (100, 1), (BLOCKS, 0))
    assert await bench.run(unmap_cdb(len(data)), data_out=data) == GOOD
    seen = bytearray(SIZE)
    await backend.readv(0, [memoryview(seen)])
    expected = bytearray(b"x" * SIZE)
    expected[4096:12288] = bytes(8192)
    expected[51200:51712] = bytes(512)
    assert seen == expected
    assert await statuses(bench, 0) == [(0, 8, 0), (8, 16, 1), (24, BLOCKS - 24, 0)]
    assert await statuses(bench, 10, 24) == [(10, 14, 1)]
    assert (await bench.run(status_cdb(24, 8))).data_in.hex() == "0000001400000000"  # room for the header only
    assert await statuses(bench, BLOCKS - 1) == [(BLOCKS - 1, 1, 0)]
    await bench.device.close()


@pytest.mark.parametrize(
    ("length", "data", "expected"),
    [
        (7, bytes(7), (5, 0x1A, 0)),
        (24, bytes(8), (5, 0x1A, 0)),
        (24, unmap_list((0, 1), (5, 1))[:24], (5, 0x1A, 0)),
        (24, unmap_list((BLOCKS, 1)), (5, 0x21, 0)),
        (24, unmap_list((2**64 - 1, 2**32 - 1))[:24], (5, 0x26, 0)),
        (24, unmap_list((2**64 - 1, 1)), (5, 0x21, 0)),
        (24, unmap_list((0, MAX_UNMAP_BLOCKS + 1)), (5, 0x26, 0)),
    ],
)
async def test_wrong_lists_unmap_nothing(length: int, data: bytes, expected: tuple[int, int, int]) -> None:
    bench = Bench(unit(thin=True))
    plan = bench.start(unmap_cdb(length), data_out=data)
    assert codes_of(await plan.run()) == expected  # type: ignore[union-attr]  # an Async


async def test_more_descriptors_than_the_limit() -> None:
    bench = Bench(unit(thin=True))
    for count, expected in ((MAX_UNMAP_DESCRIPTORS, 0), (MAX_UNMAP_DESCRIPTORS + 1, 2)):
        data = unmap_list(*[(0, 1)] * count)
        assert (await bench.run(unmap_cdb(len(data)), data_out=data)).status == expected


async def test_nothing_to_unmap_and_what_cannot_be() -> None:
    bench = Bench(unit(thin=True), unit(lun=1), unit(MemoryBackend(SIZE, read_only=True), 2, thin=True))
    assert bench.done(unmap_cdb(0)) == GOOD
    assert await bench.run(unmap_cdb(8), data_out=unmap_list()) == GOOD
    assert bench.sense(unmap_cdb(24, 1)).field == 1  # ANCHOR
    assert bench.codes(unmap_cdb(24), 1) == (5, 0x20, 0)
    assert bench.codes(unmap_cdb(24), 2) == (7, 0x27, 0)


async def test_a_backend_that_fails() -> None:
    bench = Bench(unit(FaultFilter(MemoryBackend(SIZE), [Fault(Operation.WRITE, Action.ERROR)]), thin=True))
    data = unmap_list((0, 1))
    assert codes_of(await bench.run(unmap_cdb(24), data_out=data)) == (3, 0x0C, 0)


async def test_lba_status_out_of_range_and_of_a_full_unit() -> None:
    bench = Bench()
    for lba in (BLOCKS, 2**63, 2**64 - 1):
        assert bench.codes(status_cdb(lba)) == (5, 0x21, 0)
    assert await statuses(bench, 5) == [(5, BLOCKS - 5, 0)]
