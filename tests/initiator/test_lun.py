from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import initiator
from initiator import Lun, Url
from initiator.establish import open_session
from initiator.lun import MAX_ATTENTIONS, MEDIA_RETRIES, device_type_name
from initiator.options import ConnectOptions
from initiator.task import ScsiResult
from initiator.url import Portal
from iser.errors import CommandError, ConnectionFailed, ScsiError, UsageError
from iser.pdu import FINAL, RESPONSE_UNDERFLOW, ScsiCommand
from iser.scsi import cdb as cdbs
from iser.scsi.codes import INVALID_OPCODE, LBA_OUT_OF_RANGE, POWER_ON, SenseCode
from iser.scsi.const import Opcode, SenseKey
from iser.scsi.sense import build_sense
from tests.initiator.puppet import TARGET as PUPPET
from tests.initiator.puppet import Puppet, provider, puppets
from tests.target.peer import TARGET, serving

SIZE = 1 << 20
NOT_READY = SenseCode(SenseKey.NOT_READY, 4, 1)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Lun]:
    """A LUN of 1 MiB on the real target, in this process."""
    async with (
        serving() as (_, port),
        await initiator.connect(Url(Portal("127.0.0.1", port), TARGET), **options) as lun,
    ):
        yield lun
        assert lun.link.planner
        assert lun.link.planner.in_use == 0


def random_pieces(randomness: random.Random, total: int) -> list[bytearray]:
    pieces = []
    while total:
        length = min(total, randomness.randrange(1, 30_000))
        pieces.append(bytearray(length))
        total -= length
    return pieces


@pytest.mark.parametrize("strategy", ["auto", "page-list", "indirect", "bounce"])
@pytest.mark.parametrize("max_transfer", [8 << 20, 64 << 10])
async def test_random_lists_come_back_as_they_went(strategy: str, max_transfer: int) -> None:
    randomness = random.Random(strategy)
    model = bytearray(SIZE)
    async with served(strategy=strategy, max_transfer=max_transfer) as lun:
        assert lun.capacity == (2048, 512)
        assert lun.max_transfer == max_transfer
        for _ in range(6):
            blocks = randomness.choice((1, 3, 17, 500, 2048))
            lba = randomness.randrange(2048 - blocks + 1)
            out = random_pieces(randomness, blocks * 512)
            for piece in out:
                piece[:] = randomness.randbytes(len(piece))
            await lun.write(lba, out, fua=bool(blocks & 1))
            model[lba * 512 : (lba + blocks) * 512] = b"".join(out)
            back = random_pieces(randomness, SIZE)
            await lun.read_into(0, back)
            assert b"".join(back) == model
        assert await lun.read(5, 7) == model[5 * 512 : 12 * 512]
        await lun.flush()


async def test_any_object_with_memory_will_do() -> None:
    async with served() as lun:
        # The type of the buffer protocol comes with Python 3.12 only, so these are no ``Buffer`` to a checker.
        numbers: Any = array("I", range(128))
        await lun.write(0, numbers)
        assert await lun.read(0, 1) == numbers.tobytes()
        await lun.write(0, [b"a" * 200, memoryview(b"b" * 300), bytearray(b"c" * 12)])
        into: Any = array("H", bytes(512))
        await lun.read_into(0, (into,))
        assert into.tobytes() == b"a" * 200 + b"b" * 300 + b"c" * 12
        await lun.write(0, [])
        await lun.read_into(0, b"")
        assert await lun.read(0, 0) == b""


async def test_misuse_is_told_in_one_sentence() -> None:
    async with served() as lun:
        for work, words in (
            (lun.read_into(0, bytearray(513)), "513 bytes, which is no multiple of the block size of 512"),
            (lun.write(0, [b"a", b"b"]), "2 bytes, which is no multiple"),
            (lun.read_into(0, bytes(512)), "buffer 0 is read-only"),
            (lun.write(-1, bytes(512)), "LBA -1"),
            (lun.read(0, -1), "-1 blocks"),
            (lun.execute(b""), "CDB is empty"),
            (lun.execute(bytes(6), data_in=bytearray(1), data_out=b"x"), "not both"),
            (lun.execute(bytes(6), data_in=[3]), "buffer 0"),  # type: ignore[list-item]
        ):
            with pytest.raises(UsageError, match=words):
                await work
        assert await lun.read(0, 1) == bytes(512)


async def test_beyond_the_end_is_the_targets_error_with_its_sense() -> None:
    async with served(max_transfer=4096) as lun:
        for work in (lun.read(2048, 1), lun.write(2040, bytes(9 * 512)), lun.read(1 << 40, 1)):
            with pytest.raises(ScsiError, match="logical block address out of range") as caught:
                await work
            error = caught.value
            assert (error.status, error.sense_key, error.asc, error.ascq) == (2, *LBA_OUT_OF_RANGE)


async def test_pass_through_of_any_length() -> None:
    async with served() as lun:
        whole = bytearray(96)
        result = await lun.execute(cdbs.inquiry(96), data_in=whole)
        assert (result.status, result.overflow) == (0, False)
        pieces = bytearray(3), bytearray(1), bytearray(7)
        await lun.execute(cdbs.inquiry(11), data_in=pieces)
        assert b"".join(pieces) == whole[:11]
        assert (await lun.execute(cdbs.inquiry(5), data_in=bytearray(9))).residual == 4
        assert await lun.execute(bytes(6)) == ScsiResult()
        with pytest.raises(ScsiError, match="invalid operation code"):
            await lun.execute(b"\xc1" + bytes(5))
        result = await lun.execute(b"\xc1" + bytes(5), check=False)
        assert result.status == 2
        assert result.sense[2] == 5


async def test_pass_through_that_moves_less_or_more_than_its_cdb_says() -> None:
    async with served(immediate_data=False) as lun:
        result = await lun.execute(cdbs.write_blocks(0, 2), data_out=b"x" * 512, check=False)
        assert (result.residual, result.overflow) == (512, True)
        short = bytearray(512)
        result = await lun.execute(cdbs.read_blocks(0, 2), data_in=short)
        assert (result.residual, result.overflow) == (512, True)
        long = bytearray(b"." * 1536)
        result = await lun.execute(cdbs.read_blocks(0, 2), data_in=long)
        assert (result.residual, result.overflow) == (512, False)
        assert long[1024:] == b"." * 512


async def test_a_lun_that_is_not_there() -> None:
    async with serving() as (_, port):
        with pytest.raises(ConnectionFailed, match="no LUN 3"):
            await initiator.connect(Url(Portal("127.0.0.1", port), TARGET, 3))


async def test_counters_tell_what_a_list_took() -> None:
    async with served(strategy="indirect", immediate_data=False) as lun:
        before = lun.counters.copy()
        await lun.write(0, [b"x" * 100, b"y" * 412])
        spent = lun.counters.since(before)
        assert (spent.commands, spent.stags, spent.bytes_copied, spent.list_entries) == (1, 1, 0, 2)
        assert spent.by_strategy == {"indirect": 1}


async def test_vital_product_data() -> None:
    async with served() as lun:
        assert {0x00, 0x80, 0x83, 0xB0} <= set(await lun.vpd_pages())
        assert (await lun.vpd(0x80))[1] == 0x80
        with pytest.raises(ScsiError):
            await lun.vpd(0x7F)
        assert (await lun.inquiry()).device_type == 0
        assert device_type_name(0) == "disk"
        assert device_type_name(0x13) == "device type 0x13"
        assert repr(lun).startswith("<Lun 0 at 127.0.0.1:")


# Against a target that a test scripts


class Unit:
    """What a scripted unit answers, by operation code: data, a sense code, or several to give one after the other."""

    def __init__(self, **answers: Any) -> None:
        capacity = (99).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes(20)
        self.answers: dict[int, Any] = {
            Opcode.INQUIRY: b"\0\0\x06\x02\x1f\0\0\0VENDOR  PRODUCT         0001",
            Opcode.SERVICE_ACTION_IN_16: capacity,
        }
        self.answers |= {Opcode[name]: answer for name, answer in answers.items()}
        self.seen: list[ScsiCommand] = []

    async def serve(self, puppet: Puppet) -> None:
        while True:
            command = (await puppet.inbox.get()).bhs
            if not isinstance(command, ScsiCommand):
                continue
            self.seen.append(command)
            self._answer(puppet, command)

    def _answer(self, puppet: Puppet, command: ScsiCommand) -> None:
        opcode = command.cdb[0]
        answer = self.answers.get(opcode, b"")
        if opcode == Opcode.INQUIRY and command.cdb[1] & 1:
            answer = self.answers.get(0x100 + command.cdb[2], INVALID_OPCODE)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else b""
        if isinstance(answer, SenseCode):
            sense = build_sense(answer)
            puppet.respond(command.itt, len(sense).to_bytes(2, "big") + sense, status=2)
            return
        data = answer[: command.edtl]
        if data:
            puppet.datamover.put_data(command.itt, [memoryview(data)], 0, 0, notify=False)
        left = command.edtl - len(data)
        media = opcode in (Opcode.READ_10, Opcode.WRITE_10) and not data
        puppet.respond(
            command.itt,
            flags=FINAL | (RESPONSE_UNDERFLOW if left and not media else 0),
            residual=0 if media else left,
        )

    def count(self, opcode: int) -> int:
        return sum(command.cdb[0] == opcode for command in self.seen)


@asynccontextmanager
async def scripted(unit: Unit, **changes: Any) -> AsyncIterator[Lun]:
    options = ConnectOptions(**changes)
    async with puppets() as stage:
        link = await open_session(stage.portal, PUPPET, options, provider())
        serving_it = asyncio.create_task(unit.serve(await stage.arrived.get()))
        try:
            yield await Lun.open(link, 0, options)
        finally:
            serving_it.cancel()
            await link.datamover.close()


async def test_unit_attentions_are_cleared_when_connecting() -> None:
    unit = Unit(TEST_UNIT_READY=[POWER_ON] * MAX_ATTENTIONS, SERVICE_ACTION_IN_16=None)
    unit.answers[Opcode.SERVICE_ACTION_IN_16] = [POWER_ON, Unit().answers[Opcode.SERVICE_ACTION_IN_16]]
    async with scripted(unit) as lun:
        assert lun.capacity == (100, 512)
    assert unit.count(Opcode.TEST_UNIT_READY) == MAX_ATTENTIONS + 1


async def test_unit_attentions_without_end_and_units_not_ready_are_errors() -> None:
    for sense in (POWER_ON, NOT_READY):
        unit = Unit(TEST_UNIT_READY=sense)
        with pytest.raises(ScsiError, match="TEST UNIT READY ended in CHECK CONDITION"):
            async with scripted(unit):
                pass
        assert unit.count(Opcode.TEST_UNIT_READY) == (MAX_ATTENTIONS + 1 if sense is POWER_ON else 1)


async def test_a_media_command_is_repeated_for_a_unit_attention_only_and_only_so_often() -> None:
    unit = Unit(READ_10=[POWER_ON] * MEDIA_RETRIES, WRITE_10=[POWER_ON] * (MEDIA_RETRIES + 1))
    async with scripted(unit) as lun:
        await lun.read(0, 1)
        assert unit.count(Opcode.READ_10) == MEDIA_RETRIES + 1
        with pytest.raises(ScsiError) as caught:
            await lun.write(0, bytes(512))
        assert caught.value.sense_key == SenseKey.UNIT_ATTENTION
        assert unit.count(Opcode.WRITE_10) == MEDIA_RETRIES + 1
        unit.answers[Opcode.READ_10] = [NOT_READY]
        with pytest.raises(ScsiError, match="read of 1 blocks at LBA 0 ended in CHECK CONDITION: NOT READY"):
            await lun.read(0, 1)


async def test_a_read_that_moved_too_little_is_an_error() -> None:
    async with scripted(Unit(READ_10=bytes(100))) as lun:
        with pytest.raises(CommandError, match="moved 412 bytes short of"):
            await lun.read(0, 1)


async def test_capacity_by_the_short_command() -> None:
    short = (1999).to_bytes(4, "big") + (4096).to_bytes(4, "big")
    async with scripted(Unit(SERVICE_ACTION_IN_16=INVALID_OPCODE, READ_CAPACITY_10=short)) as lun:
        assert lun.capacity == (2000, 4096)
        assert lun.capacity.size == 2000 * 4096
    full = b"\xff\xff\xff\xff" + (512).to_bytes(4, "big")
    with pytest.raises(ConnectionFailed, match=r"READ CAPACITY\(10\)"):
        async with scripted(Unit(SERVICE_ACTION_IN_16=INVALID_OPCODE, READ_CAPACITY_10=full)):
            pass
    with pytest.raises(ScsiError):
        async with scripted(Unit(SERVICE_ACTION_IN_16=NOT_READY)):
            pass


async def test_a_unit_without_blocks_takes_commands_only() -> None:
    tape = b"\x01\0\x06\x02\x1f\0\0\0VENDOR  TAPE            0001"
    async with scripted(Unit(INQUIRY=tape)) as lun:
        with pytest.raises(UsageError, match="no block device"):
            _ = lun.capacity
        with pytest.raises(UsageError, match="no block device"):
            await lun.read_into(0, bytearray(512))
        await lun.execute(bytes(6))


@pytest.mark.parametrize("peripheral", [0x1F, 0x3F, 0x7F])
async def test_an_inquiry_that_says_nobody_is_there(peripheral: int) -> None:
    with pytest.raises(ConnectionFailed, match="no LUN 0"):
        async with scripted(Unit(INQUIRY=bytes((peripheral, 0, 6, 2, 31)) + bytes(31))):
            pass


def block_limits(blocks: int) -> bytes:
    return b"\0\xb0\0\x3c" + bytes(4) + blocks.to_bytes(4, "big") + bytes(52)


async def test_transfers_keep_the_limits_of_unit_vendor_and_option() -> None:
    pages = b"\0\0\0\x02\0\xb0"
    tgt = b"\0\0\x05\x02\x1f\0\0\0IET     VIRTUAL-DISK    0001"
    for inquiry, blocks, option, limit in (
        (None, 16, 8 << 20, 8192),
        (None, 0, 8 << 20, 8 << 20),
        (None, 16, 5000, 4608),
        (tgt, 0, 8 << 20, 512 << 10),
        (tgt, 16, 8 << 20, 8192),
    ):
        unit = Unit(**({"INQUIRY": inquiry} if inquiry else {}))
        unit.answers |= {0x100: pages, 0x1B0: block_limits(blocks)}
        async with scripted(unit, max_transfer=option) as lun:
            assert lun.max_transfer == limit


async def test_a_long_transfer_is_split_in_order_and_all_of_it_ends_before_an_error_is_raised() -> None:
    unit = Unit()
    async with scripted(unit, max_transfer=1024, immediate_data=False) as lun:
        await lun.write(3, [bytes(700), bytes(1000), bytes(860)])
        places = [(command.cdb[5], command.cdb[8], command.edtl) for command in unit.seen if command.cdb[0] == 0x2A]
        assert places == [(3, 2, 1024), (5, 2, 1024), (7, 1, 512)]
        unit.answers[Opcode.WRITE_10] = [b"", NOT_READY, b""]
        with pytest.raises(ScsiError, match="write of 2 blocks at LBA 5"):
            await lun.write(3, bytes(2560))
        assert unit.count(Opcode.WRITE_10) == 6
        assert lun.session.outstanding == ()


async def test_cancelling_a_split_transfer_aborts_every_part() -> None:
    async with puppets() as stage:
        options = ConnectOptions(max_transfer=1024)
        link = await open_session(stage.portal, PUPPET, options, provider())
        puppet = await stage.arrived.get()
        lun = Lun(link, 0, options)
        lun._block_size, lun._max_bytes = 512, 1024
        task = asyncio.create_task(lun.read_into(0, bytearray(3072)))
        for _ in range(3):
            await puppet.receive(ScsiCommand)
        task.cancel()
        for _ in range(3):
            await puppet.answer_management()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert link.session.outstanding == ()
        assert link.datamover.live_keys == 0
        await link.datamover.close()
