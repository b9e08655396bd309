"""READ, WRITE, VERIFY and SYNCHRONIZE CACHE: ranges, flags, data, and a backend that fails."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.scsi import cdb
from iser.scsi.const import Opcode
from iser.scsi.sense import decode_sense
from target.backends.base import Backend
from target.backends.fault import Action, Fault, FaultFilter, Operation
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Async, Done, ReadMedia, ScsiTask, WriteMedia
from target.scsi.media import VERIFY_CHUNK
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

BLOCKS = SIZE // 512
READS = [Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16]
WRITES = [Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16]
VERIFIES = [Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16]
SYNCHRONIZES = [Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16]
RANGED = [*READS, *WRITES, *VERIFIES]
LONG = [opcode for opcode in RANGED if opcode not in (Opcode.READ_6, Opcode.WRITE_6)]


def names(opcode: object) -> str | None:
    return opcode.name if isinstance(opcode, Opcode) else None


@pytest.mark.parametrize("opcode", READS, ids=names)
def test_a_read_is_a_range_of_the_backend(opcode: Opcode) -> None:
    bench = Bench(unit(), unit(MemoryBackend(SIZE, block_size=4096), 1))
    plan = bench.start(cdb.transfer(opcode, 5, 8))
    assert plan == ReadMedia(bench.device.luns[0], 2560, 4096)
    assert bench.start(cdb.transfer(opcode, 5, 8), 1) == ReadMedia(bench.device.luns[1], 20480, 32768)


@pytest.mark.parametrize("opcode", WRITES, ids=names)
def test_a_write_is_a_range_of_the_backend(opcode: Opcode) -> None:
    bench = Bench()
    assert bench.start(cdb.transfer(opcode, BLOCKS - 1, 1)) == WriteMedia(bench.device.luns[0], SIZE - 512, 512, False)


@pytest.mark.parametrize("opcode", [w for w in WRITES if w is not Opcode.WRITE_6], ids=names)
def test_fua_and_dpo(opcode: Opcode) -> None:
    bench = Bench()
    plan = bench.start(cdb.transfer(opcode, 0, 1, cdb.FLAG_FUA | cdb.FLAG_DPO))
    assert isinstance(plan, WriteMedia)
    assert plan.fua
    assert isinstance(bench.start(cdb.transfer(Opcode.READ_10, 0, 1, cdb.FLAG_FUA | cdb.FLAG_DPO)), ReadMedia)


def test_zero_blocks_is_256_for_six_byte_commands_and_nothing_for_others() -> None:
    bench = Bench()
    plan = bench.start(bytes.fromhex("080000000000"))
    assert isinstance(plan, ReadMedia)
    assert plan.length == 256 * 512
    for opcode in LONG:
        assert bench.start(cdb.transfer(opcode, 0, 0)) == GOOD
        assert bench.start(cdb.transfer(opcode, BLOCKS, 0)) == GOOD
        assert bench.codes(cdb.transfer(opcode, BLOCKS + 1, 0)) == (5, 0x21, 0)


@pytest.mark.parametrize("opcode", [*RANGED, *SYNCHRONIZES], ids=names)
@pytest.mark.parametrize(("lba", "blocks"), [(BLOCKS, 1), (BLOCKS - 1, 2), (2**20, 8), (0, BLOCKS + 1)])
def test_blocks_past_the_end(opcode: Opcode, lba: int, blocks: int) -> None:
    if cdb.cdb_length(opcode) == 6:
        blocks = min(blocks, 256)
        lba = max(lba, BLOCKS - blocks + 1)
    sense = Bench().sense(cdb.transfer(opcode, lba, blocks))
    assert (sense.key, sense.asc, sense.ascq) == (5, 0x21, 0)
    assert sense.information == max(lba, BLOCKS)  # the first block that is not there


@pytest.mark.parametrize("opcode", [Opcode.READ_16, Opcode.WRITE_16, Opcode.VERIFY_16])
def test_an_lba_that_would_wrap_64_bits(opcode: Opcode) -> None:
    assert Bench().codes(cdb.transfer(opcode, 2**64 - 1, 2**32 - 1)) == (5, 0x21, 0)


@pytest.mark.parametrize("opcode", LONG, ids=names)
@pytest.mark.parametrize("protect", [0x20, 0x80, 0xE0])
def test_protection_is_not_offered(opcode: Opcode, protect: int) -> None:
    sense = Bench().sense(cdb.transfer(opcode, 0, 1, protect))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, 1)


@pytest.mark.parametrize(
    ("opcode", "field"),
    [(Opcode.READ_10, 7), (Opcode.WRITE_12, 6), (Opcode.READ_16, 10), (Opcode.VERIFY_10, 7)],
    ids=names,
)
def test_more_than_the_maximum_transfer_length_is_refused(opcode: Opcode, field: int) -> None:
    bench = Bench(unit(max_transfer=64 << 10))
    assert not isinstance(bench.start(cdb.transfer(opcode, 0, 128)), Done)
    sense = bench.sense(cdb.transfer(opcode, 0, 129))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, field)


@pytest.mark.parametrize("opcode", WRITES, ids=names)
def test_a_write_protected_unit_is_not_written(opcode: Opcode) -> None:
    bench = Bench(unit(MemoryBackend(SIZE, read_only=True)))
    assert bench.codes(cdb.transfer(opcode, 0, 1)) == (7, 0x27, 0)
    assert isinstance(bench.start(cdb.read_blocks(0, 1)), ReadMedia)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=0, max_size=20), st.integers(0, 2))
def test_no_cdb_upsets_the_device_server(command: bytes, kind: int) -> None:
    """Any bytes end in a plan within bounds: raw, with a known code, and as they come from an initiator."""
    bench = Bench()
    if kind and command:
        command = bytes((list(Opcode)[command[0] % len(Opcode)],)) + command[1:]
    plan = bench.start(command.ljust(16, b"\0") if kind == 2 else command)
    if isinstance(plan, ReadMedia | WriteMedia):
        assert 0 <= plan.offset < plan.offset + plan.length <= SIZE
    elif isinstance(plan, Done):
        assert plan.status in (0, 2)
        assert len(plan.sense) <= 28


async def test_written_data_is_read_back() -> None:
    bench = Bench()
    data = os.urandom(4096)
    assert await bench.run(cdb.write_blocks(3, 8), data_out=data) == GOOD
    assert (await bench.run(cdb.read_blocks(3, 8))).data_in == data
    assert (await bench.run(cdb.read_blocks(0, 3))).data_in == bytes(1536)


async def test_verify_reads_and_compares() -> None:
    backend = MemoryBackend(SIZE)
    data = os.urandom(VERIFY_CHUNK + 1024)
    await backend.writev(512, [memoryview(data)], fua=False)
    bench = Bench(unit(backend))
    blocks = len(data) // 512
    assert await bench.run(cdb.verify(1, blocks)) == GOOD
    assert await bench.run(cdb.verify(1, blocks, bytchk=cdb.BYTCHK_DATA), data_out=data) == GOOD
    for wrong in (0, 511, VERIFY_CHUNK - 1, VERIFY_CHUNK, len(data) - 1):
        other = bytearray(data)
        other[wrong] ^= 1
        done = await bench.run(cdb.verify(1, blocks, bytchk=cdb.BYTCHK_DATA), data_out=bytes(other))
        assert codes_of(done) == (0xE, 0x1D, 0)
        assert decode_sense(done.sense).information == wrong


async def test_verify_against_one_block() -> None:
    backend = MemoryBackend(SIZE)
    block = os.urandom(512)
    await backend.writev(0, [memoryview(block * 1024)], fua=False)
    bench = Bench(unit(backend))
    command = cdb.verify(0, 1024, bytchk=cdb.BYTCHK_BLOCK)
    assert await bench.run(command, data_out=block) == GOOD
    await backend.writev(512 * 1000 + 7, [memoryview(bytes((block[7] ^ 1,)))], fua=False)
    done = await bench.run(command, data_out=block)
    assert decode_sense(done.sense).information == 512 * 1000 + 7


async def test_verify_wants_all_of_its_data() -> None:
    bench = Bench()
    plan = bench.start(cdb.verify(0, 2, bytchk=cdb.BYTCHK_DATA), data_out=bytes(1023))
    assert isinstance(plan, Async)
    assert plan.data_out_length == 1024
    assert codes_of(await plan.run()) == (5, 0x24, 0)
    assert bench.codes(cdb.verify(0, 2, bytchk=0x04)) == (5, 0x24, 0)


async def test_verify_gives_way_to_others_and_may_be_cancelled() -> None:
    plan = Bench(unit(max_transfer=SIZE)).start(cdb.verify(0, BLOCKS))
    assert isinstance(plan, Async)
    task = asyncio.ensure_future(plan.run())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def faulty(*faults: Fault) -> Backend:
    return FaultFilter(MemoryBackend(SIZE), faults)


async def test_an_io_error_under_verify_is_a_medium_error() -> None:
    bench = Bench(unit(faulty(Fault(Operation.READ, Action.ERROR))))
    assert codes_of(await bench.run(cdb.verify(0, 8))) == (3, 0x11, 0)
    assert await bench.run(cdb.verify(0, 8)) == GOOD


@pytest.mark.parametrize("opcode", SYNCHRONIZES, ids=names)
async def test_synchronize_cache_flushes_and_tells_when_it_cannot(opcode: Opcode) -> None:
    bench = Bench(unit(faulty(Fault(Operation.FLUSH, Action.FULL))))
    for flags in (0, cdb.FLAG_IMMED):
        assert isinstance(bench.start(cdb.transfer(opcode, 0, 0, flags)), Async)
    assert codes_of(await bench.run(cdb.transfer(opcode, 0, 0))) == (3, 0x0C, 0)
    assert await bench.run(cdb.transfer(opcode, 0, BLOCKS, cdb.FLAG_IMMED)) == GOOD
    assert Bench().start(cdb.transfer(opcode, 0, 0)) == GOOD


async def test_a_synchronised_file_has_the_data(tmp_path: Path) -> None:
    bench = Bench(unit(FileBackend(tmp_path / "disk", SIZE)))
    data = os.urandom(512)
    assert await bench.run(cdb.write_blocks(9, 1, fua=True), data_out=data) == GOOD
    assert await bench.run(cdb.synchronize_cache()) == GOOD
    with open(tmp_path / "disk", "rb") as file:  # noqa: ASYNC230 - nothing else runs in this loop
        file.seek(9 * 512)
        assert file.read(512) == data
    await bench.device.close()


@pytest.mark.parametrize("opcode", [Opcode.PRE_FETCH_10, Opcode.PRE_FETCH_16], ids=names)
def test_pre_fetch_is_checked_and_no_more(opcode: Opcode) -> None:
    bench = Bench()
    for blocks in (0, 1, BLOCKS):
        assert bench.done(cdb.transfer(opcode, 0, blocks, cdb.FLAG_IMMED)) == GOOD
    for lba, blocks in ((0, BLOCKS + 1), (BLOCKS, 1), (BLOCKS + 1, 0), (2**32 - 1, 0)):
        assert bench.codes(cdb.transfer(opcode, lba, blocks)) == (5, 0x21, 0)


@pytest.mark.parametrize("opcode", [*READS, *WRITES], ids=names)
def test_an_aca_is_refused(opcode: Opcode) -> None:
    bench = Bench()
    command = bytearray(cdb.transfer(opcode, 0, 1))
    command[-1] = 0x04
    sense = bench.sense(bytes(command))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, len(command) - 1)
    task = ScsiTask(0, cdb.transfer(opcode, 0, 1).ljust(16, b"\0"), 1, 4, 0, bench.nexus)  # the task attribute ACA
    assert codes_of(bench.device.start(task)) == (5, 0x49, 0)  # type: ignore[arg-type]  # a Done
