"""Plain iSCSI end to end: our initiator and our target over TCP, in every way that differs from iSER."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import initiator
from initiator.report import describe
from iser.datamover.tcp import TcpInitiator
from iser.errors import CommandTimeout, ScsiError
from iser.login import TextRequester
from iser.pdu import FINAL, R2T, DataIn, DataOut, Pdu, TaskManagementResponseCode
from iser.sg import SgList
from target.server import TargetServer
from tests.target.peer import TARGET, config, disk, leave_nothing


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[tuple[TargetServer, str]]:
    """A target on TCP, and the URL of its LUN 0."""
    tables = {"portal": {"p": {"listen": "iscsi://127.0.0.1:0"}}, "target": disk(size="16M")}
    server = await TargetServer.start(config(**(tables | changes)))
    try:
        yield server, f"iscsi://127.0.0.1:{server.addresses[0][1]}/{TARGET}/0"
    finally:
        await server.close(drain=1)
    assert server.sessions == 0
    assert server.staging.in_use == 0
    await leave_nothing()


def shuffled(length: int, seed: int) -> tuple[bytearray, list[memoryview]]:
    """Memory of ``length`` bytes, and it in pieces of odd lengths."""
    memory = bytearray(random.Random(seed).randbytes(length))
    pieces, at, view = [], 0, memoryview(memory)
    chance = random.Random(seed + 1)
    while at < length:
        size = min(chance.choice((1, 3, 511, 513, 4096, 70_001)), length - at)
        pieces.append(view[at : at + size])
        at += size
    return memory, pieces


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("limits", [{}, {"max_burst_length": 8192, "first_burst_length": 4096}, {"initial_r2t": False}])
async def test_what_was_written_comes_back(digests: bool, immediate: bool, limits: dict[str, Any]) -> None:
    async with serving(limits=limits) as (_, url):
        options = {
            "header_digest": digests,
            "data_digest": digests,
            "immediate_data": immediate,
            "max_transfer": 1 << 20,
        }
        async with await initiator.connect(url, **options) as lun:
            for blocks in (1, 8, 127, 5000):
                memory, pieces = shuffled(blocks * 512, blocks)
                await lun.write(3, pieces)
                back, into = shuffled(blocks * 512, blocks + 1)
                await lun.read_into(3, into)
                assert hashlib.sha256(back).digest() == hashlib.sha256(memory).digest()


async def test_many_commands_at_once_do_not_mix() -> None:
    async with serving() as (_, url), await initiator.connect(url, queue_depth=32) as lun:

        async def one(number: int) -> None:
            data = os.urandom(4096 * (1 + number % 40))
            lba = number * 400
            await lun.write(lba, data)
            assert await lun.read(lba, len(data) // 512) == data

        await asyncio.gather(*(one(number) for number in range(64)))


async def test_discovery_tells_of_the_portals_of_its_transport() -> None:
    portals = {"a": {"listen": "iscsi://127.0.0.1:0"}, "b": {"listen": "iser://127.0.0.1:0"}}
    async with serving(portal=portals) as (server, _):
        (tcp, rdma) = server.portals
        for portal in (tcp, rdma):
            (record,) = await initiator.discover(str(portal))
            assert [address.port for address in record.addresses] == [portal.port]


async def test_a_ping_brings_all_its_data_back() -> None:
    async with serving() as (_, url), await initiator.connect(url) as lun:
        assert await lun.session.nop(bytes(range(256)) * 16) == bytes(range(256)) * 16


@pytest.mark.parametrize("blocks", [8, 4000])
@pytest.mark.parametrize("write", [False, True])
async def test_a_command_that_takes_too_long_is_aborted_and_the_memory_is_ours_again(blocks: int, write: bool) -> None:
    slow = {"on": "write" if write else "read", "action": "delay", "seconds": 0.3}
    async with serving(target=disk(slow, size="16M")) as (_, url), await initiator.connect(url) as lun:
        memory = bytearray(blocks * 512)
        with pytest.raises(CommandTimeout):
            await lun.session.execute(0, _cdb(blocks, write=write), *_lists(memory, write=write), 0.05)
        before = bytes(memory)
        await lun.write(0, os.urandom(512))
        assert memory == before


def _cdb(blocks: int, *, write: bool) -> bytes:
    return bytes((0x2A if write else 0x28, 0)) + bytes(4) + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def _lists(memory: bytearray, *, write: bool) -> tuple[Any, Any]:
    return (None, SgList.of(memory, writable=False)) if write else (SgList.of(memory, writable=True), None)


async def test_a_lun_reset_while_data_moves() -> None:
    async with serving() as (_, url), await initiator.connect(url) as lun:
        writes = [asyncio.create_task(lun.write(0, bytes(1 << 20))) for _ in range(4)]
        await asyncio.sleep(0)
        assert await lun.session.lun_reset(0) == TaskManagementResponseCode.FUNCTION_COMPLETE
        await asyncio.gather(*writes, return_exceptions=True)
        data = os.urandom(1 << 20)
        await lun.write(0, data)
        assert await lun.read(0, 2048) == data


@pytest.mark.parametrize("memory", [True, False])
async def test_a_write_whose_data_is_out_of_step_fails_and_the_session_lives(
    memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = TcpInitiator._ready_to_transfer

    def miscounted(self: TcpInitiator, bhs: R2T) -> None:
        size = bhs.desired_data_transfer_length
        wrong = DataOut(flags=FINAL, itt=bhs.itt, ttt=bhs.ttt, data_sn=27, buffer_offset=bhs.buffer_offset)
        self.send_control(Pdu(wrong, bytes(size)))

    target = disk(size="1M") if memory else disk(backend="file", path=str(tmp_path / "disk"), size="1M")
    async with serving(target=target) as (server, url), await initiator.connect(url, immediate_data=False) as lun:
        monkeypatch.setattr(TcpInitiator, "_ready_to_transfer", miscounted)
        for length in (512, 200_192):
            with pytest.raises(ScsiError) as caught:
                await lun.write(0, b"\xff" * length)
            assert (caught.value.sense_key, caught.value.asc, caught.value.ascq) == (0x0B, 0x0C, 0x0D)
        assert server.staging.in_use == 0
        monkeypatch.setattr(TcpInitiator, "_ready_to_transfer", answer)
        assert await lun.read(0, 391) == bytes(391 * 512)
        await lun.write(0, b"\x01" * 512)
        assert await lun.read(0, 1) == b"\x01" * 512


async def test_a_receive_length_may_be_declared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    take = TcpInitiator.destination

    def noted(self: TcpInitiator, bhs: DataIn) -> Sequence[memoryview] | None:
        lengths.append(bhs.data_segment_length)
        return take(self, bhs)

    async with serving() as (_, url), await initiator.connect(url) as lun:
        monkeypatch.setattr(TcpInitiator, "destination", noted)
        await lun.read(0, 8)

        def declare(itt: int) -> tuple[Pdu, Any]:
            requester = TextRequester([("MaxRecvDataSegmentLength", "1024")], itt=itt, immediate=True)
            return requester.start(), requester.receive

        await lun.session.text(declare, 5)
        await lun.read(0, 8)
        assert lengths == [4096, 1024, 1024, 1024, 1024]


async def test_information_says_that_nothing_is_registered() -> None:
    async with serving() as (_, url), await initiator.connect(url) as lun:
        assert ("device", "none: plain TCP registers nothing") in await describe(lun)
        assert lun.counters.registrations == 0
        assert lun.counters.commands > 0
