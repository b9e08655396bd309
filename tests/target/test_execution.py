"""Tests of target.execution: residuals, data paths, backend faults, aborts and peers that vanish."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from iser.errors import ConnectionLost
from iser.login import Wishes
from iser.pdu import (
    FINAL,
    IMMEDIATE,
    RESPONSE_OVERFLOW,
    RESPONSE_UNDERFLOW,
    DataOut,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
)
from iser.pdu.const import RejectReason, TaskManagementFunction
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.scsi.cdb import inquiry, read_blocks, synchronize_cache, verify, write_blocks
from iser.scsi.sense import decode_sense
from target.backends.base import BackendCap
from target.backends.memory import MemoryBackend
from target.server import TargetServer
from target.staging import StagingPool
from tests.target.peer import TARGET, Peer, config, disk, logged_in, served, serving, until

KIB = 1024
BLOCK = 512
TEST_UNIT_READY = bytes(6)
#: A peer whose socket fills soon.
SMALL = SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0, linger_timeout=0.1, socket_buffer=16384)
SLOW = {"action": "delay", "count": 1000, "seconds": 0.1}


def pattern(length: int, seed: int = 1) -> bytes:
    return bytes((i * 7 + seed + i // 251) % 256 for i in range(length))


def file_disk(tmp_path: Path, *faults: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """A target of one LUN in a file of 4 MiB."""
    return disk(*faults, backend="file", path=str(tmp_path / "disk"), size="4M")


async def ping(peer: Peer) -> None:
    itt = peer.send(NopOut())
    assert (await peer.expect(NopIn)).itt == itt


# Residuals


@pytest.mark.parametrize("slow", [False, True], ids=["zero copy", "staged"])
@pytest.mark.parametrize(
    ("blocks", "edtl", "flags", "residual"),
    [
        (4, 2048, FINAL, 0),
        (4, 1024, FINAL | RESPONSE_OVERFLOW, 1024),
        (4, 4096, FINAL | RESPONSE_UNDERFLOW, 2048),
        (4, 100, FINAL | RESPONSE_OVERFLOW, 1948),
        (4, 0, FINAL | RESPONSE_OVERFLOW, 2048),
        (0, 512, FINAL | RESPONSE_UNDERFLOW, 512),
    ],
)
async def test_residuals_of_media_commands(slow: bool, blocks: int, edtl: int, flags: int, residual: int) -> None:
    async with logged_in(config(target=disk(*([{"on": "flush", "action": "error"}] if slow else [])))) as peer:
        data = pattern(4096)
        response, _ = await peer.command(write_blocks(0, blocks), write=data[:edtl])
        assert (response.status, response.flags, response.residual) == (0, flags, residual)
        there = bytearray(b"." * edtl)
        response, _ = await peer.command(read_blocks(0, blocks), read=there)
        assert (response.status, response.flags, response.residual) == (0, flags, residual)
        whole = min(edtl, blocks * BLOCK) // BLOCK * BLOCK
        assert there[:whole] == data[:whole]
        assert there[blocks * BLOCK :] == b"." * max(0, edtl - blocks * BLOCK)


@pytest.mark.parametrize(("edtl", "flags", "residual"), [(96, FINAL | RESPONSE_UNDERFLOW, 60), (36, FINAL, 0)])
async def test_residuals_of_data_that_the_device_server_makes(edtl: int, flags: int, residual: int) -> None:
    async with logged_in() as peer:
        there = bytearray(edtl)
        response, _ = await peer.command(inquiry(36), read=there)
        assert (response.status, response.flags, response.residual) == (0, flags, residual)
        assert there[8:15] == b"ISER-PY"


async def test_control_data_longer_than_its_buffer_is_cut_and_counted() -> None:
    async with logged_in() as peer:
        there = bytearray(8)
        response, _ = await peer.command(inquiry(36), read=there)
        assert (response.flags, response.residual) == (FINAL | RESPONSE_OVERFLOW, 28)
        assert there[2:4] == b"\x06\x12"


@pytest.mark.parametrize("how", ["read", "write"])
async def test_a_command_without_data_leaves_all_of_the_buffer(how: str) -> None:
    async with logged_in() as peer:
        buffer: dict[str, Any] = {how: bytearray(100) if how == "read" else bytes(100)}
        response, _ = await peer.command(TEST_UNIT_READY, **buffer)
        assert (response.status, response.flags, response.residual) == (0, FINAL | RESPONSE_UNDERFLOW, 100)


async def test_a_failed_command_moves_nothing() -> None:
    async with logged_in() as peer:
        there = bytearray(b"." * 512)
        response, sense = await peer.command(read_blocks(1 << 20, 1), read=there)
        assert (response.status, sense[2], sense[12]) == (2, 5, 0x21)
        assert (response.flags, response.residual) == (FINAL | RESPONSE_UNDERFLOW, 512)
        assert there == b"." * 512
        response, sense = await peer.command(read_blocks(0, 1), read=there, lun=5 << 48)
        assert (response.status, sense[2], sense[12]) == (2, 5, 0x25)


async def test_a_command_in_the_wrong_direction_moves_nothing() -> None:
    async with logged_in() as peer:
        there = bytearray(b"." * 512)
        response, sense = await peer.command(write_blocks(0, 1), read=there)
        assert (response.status, sense[2], sense[12], sense[13]) == (2, 5, 0x0E, 3)
        response, sense = await peer.command(read_blocks(0, 1), write=bytes(512))
        assert (response.status, sense) == (0, b"")
        assert there == b"." * 512


async def test_parameters_go_through_staging_and_are_compared() -> None:
    async with serving() as (server, port), served(port) as peer:
        data = pattern(8192)
        await peer.command(write_blocks(0, 16), write=data)
        response, _ = await peer.command(verify(0, 16, bytchk=2), write=data)
        assert (response.status, response.residual) == (0, 0)
        response, sense = await peer.command(verify(0, 16, bytchk=2), write=data[:-1] + b"\0")
        assert (response.status, sense[2]) == (2, 0xE)
        response, sense = await peer.command(verify(0, 16, bytchk=2), write=data[:512])
        assert response.status == 2
        assert server.staging.high_water == 8192


# Data paths


IMMEDIATE_CASES = [(4096, 4096, 4096), (4096, 512, 512), (16384, 8192, 8192), (4096, 0, 0), (4096, 1000, 1000)]


@pytest.mark.parametrize(("length", "immediate", "unsolicited"), IMMEDIATE_CASES)
@pytest.mark.parametrize("where", ["memory", "file"])
async def test_immediate_data_and_the_rest(
    where: str, length: int, immediate: int, unsolicited: int, tmp_path: Path
) -> None:
    target = disk() if where == "memory" else file_disk(tmp_path)
    async with logged_in(config(target=target)) as peer:
        data = pattern(length, immediate)
        response, _ = await peer.command(write_blocks(8, length // BLOCK), write=data, immediate=immediate)
        assert (response.status, response.residual) == (0, 0)
        there = bytearray(length)
        await peer.command(read_blocks(8, length // BLOCK), read=there)
        assert there == data


@pytest.mark.parametrize(
    ("wishes", "immediate"), [(Wishes(immediate_data=False), 512), (Wishes(first_burst_length=1024), 1536)]
)
async def test_immediate_data_that_was_not_agreed_is_rejected(wishes: Wishes, immediate: int) -> None:
    async with logged_in(wishes=wishes) as peer:
        peer.send_command(write_blocks(0, 8), write=bytes(4096), immediate=immediate)
        assert (await peer.expect(Reject)).reason == RejectReason.PROTOCOL_ERROR


async def test_large_transfers_on_a_file_come_back_whole(tmp_path: Path) -> None:
    async with serving(config(target=file_disk(tmp_path))) as (server, port), served(port) as peer:
        writes = {}
        for n in range(8):
            data = pattern(256 * KIB, n)
            writes[peer.send_command(write_blocks(n * 512, 512), write=data)] = data
        for _ in writes:
            assert (await peer.expect(ScsiResponse)).status == 0
        for n, data in enumerate(writes.values()):
            there = bytearray(256 * KIB)
            await peer.command(read_blocks(n * 512, 512), read=there)
            assert there == data
        assert server.staging.high_water <= 8 * 256 * KIB
    assert (tmp_path / "disk").read_bytes()[: 256 * KIB] == pattern(256 * KIB, 0)


class Recording(MemoryBackend):
    """Memory with a cache, as far as it tells, that writes down how it was flushed."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.capabilities |= BackendCap.WRITE_CACHE
        self.flushed = 0

    async def flush(self) -> None:
        self.flushed += 1


async def test_flushes_reach_a_backend_that_is_written_without_a_copy() -> None:
    async with serving() as (server, port), served(port) as peer:
        (unit,) = server._targets[0].device.luns.values()
        unit.backend = backend = Recording()
        for cdb, flushed in (
            (write_blocks(0, 1), 0),
            (write_blocks(0, 1, fua=True), 1),
            (synchronize_cache(), 2),
        ):
            data = {"write": bytes(512)} if cdb[0] == write_blocks(0, 1)[0] else {}
            response, _ = await peer.command(cdb, **data)
            assert (response.status, backend.flushed) == (0, flushed)


async def test_flushes_reach_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    pwritev, fdatasync = os.pwritev, os.fdatasync

    def write(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        synced.extend(["write"] * bool(flags & os.RWF_DSYNC))
        return pwritev(fd, buffers, offset, flags)

    def sync(fd: int) -> None:
        synced.append("flush")
        fdatasync(fd)

    monkeypatch.setattr(os, "pwritev", write)
    monkeypatch.setattr(os, "fdatasync", sync)
    async with logged_in(config(target=file_disk(tmp_path))) as peer:
        await peer.command(write_blocks(0, 1), write=bytes(512))
        await peer.command(write_blocks(0, 1, fua=True), write=bytes(512))
        await peer.command(synchronize_cache())
        assert synced == ["write", "flush"]


async def test_a_flush_that_fails_is_reported() -> None:
    async with logged_in(config(target=disk({"on": "flush", "action": "error"}))) as peer:
        response, sense = await peer.command(synchronize_cache())
        assert (response.status, sense[2], sense[12]) == (2, 3, 0x0C)
        response, _ = await peer.command(synchronize_cache())
        assert response.status == 0


@asynccontextmanager
async def scarce(settings: Any, limit: int = 4096) -> AsyncIterator[tuple[TargetServer, int]]:
    """A server with ``limit`` bytes of staging."""
    async with serving(settings) as (server, port):
        server.staging = StagingPool(limit)
        yield server, port


async def test_commands_wait_for_staging_and_all_are_served() -> None:
    async with scarce(config(target=disk({"on": "flush", "action": "error"}))) as (server, port), served(port) as peer:
        for n in range(8):
            peer.send_command(write_blocks(n * 8, 8), write=pattern(4096, n), immediate=4096 if n % 2 else 0)
        for _ in range(8):
            assert (await peer.expect(ScsiResponse)).status == 0
        buffers = [bytearray(4096) for _ in range(8)]
        for n, buffer in enumerate(buffers):
            peer.send_command(read_blocks(n * 8, 8), read=buffer)
        for _ in buffers:
            assert (await peer.expect(ScsiResponse)).status == 0
        assert buffers == [bytearray(pattern(4096, n)) for n in range(8)]
        assert server.staging.high_water == 4096


async def test_unsolicited_data_that_comes_before_there_is_staging_is_kept() -> None:
    limits = {"initial_r2t": False}
    slow = disk({"on": "write", **SLOW})
    async with (
        scarce(config(limits=limits, target=slow)) as (_, port),
        served(port, Wishes(initial_r2t=False)) as peer,
    ):
        peer.send_command(write_blocks(0, 8), write=bytes(4096))
        data = pattern(4096)
        itt = peer.send_command(write_blocks(8, 8), write=data, immediate=1024, unsolicited=4096)
        out = DataOut(flags=FINAL, itt=itt, buffer_offset=1024)
        peer.datamover.send_control(Pdu(out, data[1024:]))
        for _ in range(2):
            assert (await peer.expect(ScsiResponse)).status == 0
        there = bytearray(4096)
        await peer.command(read_blocks(8, 8), read=there)
        assert there == data


# Backend faults


@pytest.mark.parametrize("action", ["error", "full", "short"])
@pytest.mark.parametrize("on", ["read", "write"])
async def test_a_fault_of_the_backend_is_a_medium_error_and_the_session_lives(on: str, action: str) -> None:
    async with logged_in(config(target=disk({"on": on, "action": action, "nth": 2}))) as peer:
        data = pattern(4096)
        codes = []
        for _ in range(3):
            response, sense = await peer.command(write_blocks(0, 8), write=data)
            codes.append((response.status, *((sense[2], sense[12]) if sense else ()), response.residual))
            there = bytearray(4096)
            response, sense = await peer.command(read_blocks(0, 8), read=there)
            codes.append((response.status, *((sense[2], sense[12]) if sense else ()), response.residual))
        bad = (2, 3, 0x0C if on == "write" else 0x11, 4096)
        if (on, action) == ("write", "full"):
            bad = (2, 7, 0x27, 4096)  # the LUN is thin
        good = (0, 0)
        expected = [good, good, good, bad, good, good] if on == "read" else [good, good, bad, good, good, good]
        assert codes == expected
        assert there == data


@pytest.mark.parametrize("descriptor", [False, True])
async def test_a_medium_error_says_where(descriptor: bool) -> None:
    faults = ({"on": "read", "action": "short"}, {"on": "read", "action": "error", "nth": 2})
    async with logged_in(config(target=disk(*faults))) as peer:
        control = bytes(4) + bytes((0x0A, 10, 4 * descriptor, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0))
        await peer.command(bytes((0x15, 0x10, 0, 0, 16, 0)), write=control)
        for lba in (16 + 4, 16):
            _, sense = await peer.command(read_blocks(16, 8), read=bytearray(4096))
            assert decode_sense(sense).information == lba


@pytest.mark.parametrize("on", ["read", "write"])
async def test_a_command_on_blocks_that_are_cut_off_meanwhile(on: str) -> None:
    async with serving(config(target=disk({"on": on, **SLOW}))) as (server, port), served(port) as peer:
        buffers = {"read": bytearray(512)} if on == "read" else {"write": bytes(512)}
        peer.send_command((read_blocks if on == "read" else write_blocks)(2047, 1), **buffers)
        await until(lambda: not server.connections[0].idle)
        await server.registry.targets[TARGET].device.luns[0].resize(512 << 10)
        pdu = await peer.receive()
        assert isinstance(pdu.bhs, ScsiResponse)
        assert (pdu.bhs.status, pdu.data[4], bytes(pdu.data[14:16])) == (2, 5, b"\x21\0")
        assert (await peer.command(TEST_UNIT_READY))[1][12:14] == b"\x2a\x09"


async def test_a_real_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with logged_in(config(target=file_disk(tmp_path))) as peer:
        before, after = pattern(65536, 1), pattern(65536, 2)
        assert (await peer.command(write_blocks(0, 128), write=before))[0].status == 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # the file is sparse: it cannot grow beyond this
        try:
            for _ in range(3):
                response, sense = await peer.command(write_blocks(4096, 128), write=after)
                assert (response.status, sense[2], sense[12:14]) == (2, 7, b"\x27\x07")
                assert response.residual == 65536
            assert (await peer.command(write_blocks(128, 128), write=after))[0].status == 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        there = bytearray(131072)
        await peer.command(read_blocks(0, 256), read=there)
        assert there == before + after
        assert (await peer.command(write_blocks(4096, 128), write=after))[0].status == 0


# Aborts and ends


def abort(peer: Peer, itt: int) -> int:
    return peer.send(
        TaskManagementRequest(
            opcode=0x02 | IMMEDIATE,
            flags=FINAL | TaskManagementFunction.ABORT_TASK,
            referenced_task_tag=itt,
            ref_cmd_sn=peer.cmd_sn - 1,
        )
    )


async def test_a_task_that_waits_for_staging_is_aborted_at_once() -> None:
    slow = disk({"on": "write", "action": "delay", "seconds": 0.4})
    async with scarce(config(target=slow)) as (server, port), served(port) as peer:
        first = peer.send_command(write_blocks(0, 8), write=bytes(4096))
        for how in ({"write": bytes(4096)}, {"read": bytearray(4096)}):
            waiting = peer.send_command(write_blocks(8, 8) if "write" in how else read_blocks(8, 8), **how)
            await peer.silence(0.02)
            function = abort(peer, waiting)
            answer = await asyncio.wait_for(peer.expect(TaskManagementResponse), 0.2)
            assert (answer.itt, answer.response) == (function, 0)
            peer.datamover.deallocate_task_resources(waiting)
        assert (await peer.expect(ScsiResponse)).itt == first
        assert server.staging.in_use == 0


async def test_an_aborted_read_does_not_wait_for_a_stuck_backend_whose_memory_it_keeps() -> None:
    """The kernel's initiator gives up on an ABORT TASK after some seconds, and then on the session."""
    stuck = disk({"on": "read", "action": "delay", "seconds": 0.4})
    async with serving(config(target=stuck)) as (server, port), served(port) as peer:
        itt = peer.send_command(read_blocks(0, 8), read=bytearray(4096))
        await peer.silence(0.02)
        function = abort(peer, itt)
        answer = await asyncio.wait_for(peer.expect(TaskManagementResponse), 0.2)
        assert (answer.itt, answer.response) == (function, 0)
        peer.datamover.deallocate_task_resources(itt)
        assert server.staging.in_use == 4096
        await until(lambda: server.staging.in_use == 0)
        await peer.silence(0)


async def test_an_aborted_task_keeps_its_memory_until_the_backend_is_done_with_it() -> None:
    slow = disk({"on": "write", **SLOW})
    async with serving(config(target=slow)) as (server, port), served(port) as peer:
        itt = peer.send_command(write_blocks(0, 8), write=bytes(4096))
        await peer.silence(0.03)
        function = abort(peer, itt)
        await peer.silence(0.03)
        assert server.staging.in_use == 4096
        assert (await peer.expect(TaskManagementResponse)).itt == function
        assert server.staging.in_use == 0
        peer.datamover.deallocate_task_resources(itt)
        await ping(peer)


async def test_an_aborted_task_that_waited_for_staging_first_keeps_it_too() -> None:
    """The coroutine that waited and the one that stores overlap; the first one's end must not hide the second."""
    slow = disk({"on": "write", **SLOW})
    async with scarce(config(target=slow)) as (server, port), served(port) as peer:
        peer.send_command(write_blocks(0, 8), write=bytes(4096))
        itt = peer.send_command(write_blocks(8, 8), write=bytes(4096), immediate=4096)
        await peer.expect(ScsiResponse)
        await peer.silence(0.03)
        abort(peer, itt)
        await peer.silence(0.03)
        assert server.staging.in_use == 4096
        await peer.expect(TaskManagementResponse)


@pytest.mark.parametrize("where", ["memory", "file", "slow"])
@pytest.mark.parametrize("how", ["read", "write"])
async def test_a_peer_that_vanishes_in_the_middle_leaves_nothing(
    where: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = {"memory": disk(size="8M"), "file": file_disk(tmp_path), "slow": disk({"on": how, **SLOW}, size="8M")}
    async with serving(config(target=target[where])) as (server, port):
        peer = Peer()
        await peer.connect(port)
        await peer.log_in()
        await peer.clear_attention()
        for n in range(4):
            cdb = read_blocks(n * 2048, 2048) if how == "read" else write_blocks(n * 2048, 2048)
            data: dict[str, Any] = {"read": bytearray(1 << 20)} if how == "read" else {"write": bytes(1 << 20)}
            peer.send_command(cdb, **data)
        operations = peer.datamover.remote_operations or 0
        await until(lambda: (peer.datamover.remote_operations or 0) > operations, 0.2)
        peer.datamover.abort(ConnectionLost("pulled"))
        assert isinstance(await peer.over(), ConnectionLost)
        await peer.datamover.close()
        assert peer.datamover.live_keys == 0
        await until(lambda: server.sessions == 0 and server.staging.in_use == 0)
        assert (server.sessions, server.staging.in_use) == (0, 0)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def stop_reading(peer: Peer) -> None:
    """The peer's RNIC takes nothing from its socket any more."""
    sock = peer.datamover._qp._sock  # type: ignore[attr-defined]
    asyncio.get_running_loop().remove_reader(sock.fileno())


async def test_a_peer_that_stops_reading_is_cut_off_and_holds_little(caplog: pytest.LogCaptureFixture) -> None:
    provider = SoftIwarp(SoftIwarpOptions(stall_timeout=0.2, socket_buffer=65536, linger_timeout=0.1))
    caplog.set_level(logging.INFO, "iser.rdma.softiwarp")
    settings = config(target=disk({"on": "flush", "action": "error"}, size="8M"))
    async with serving(settings, provider) as (server, port):
        server.staging = StagingPool(4 << 20)
        peer = Peer()
        await peer.connect(port, rnic=SMALL)
        await peer.log_in()
        await peer.clear_attention()
        stop_reading(peer)
        for n in range(16):
            peer.send_command(read_blocks(n * 1024, 1024), read=bytearray(512 * KIB))
        await asyncio.sleep(0.05)
        async with served(port, isid=bytes(5) + b"\2") as other:
            await ping(other)
        await until(lambda: server.sessions == 0)
        assert (server.sessions, server.staging.in_use) == (0, 0)
        assert server.staging.high_water <= 4 << 20
        await peer.datamover.close()
    assert [line for line in caplog.messages if "has not read for 0.2 s" in line]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_flood_of_pings_from_a_peer_that_does_not_read_ends(caplog: pytest.LogCaptureFixture) -> None:
    provider = SoftIwarp(SoftIwarpOptions(socket_buffer=65536, linger_timeout=0.1))
    async with serving(config(limits={"queue_depth": 4}), provider) as (server, port):
        peer = Peer()
        await peer.connect(port, rnic=SMALL)
        await peer.log_in()
        stop_reading(peer)
        sent = 0
        while server.sessions:
            if not peer.ended.is_set():
                peer.send(NopOut(opcode=IMMEDIATE), bytes(8192))
            sent += 1
            assert sent < 2000
            await asyncio.sleep(0.001 * (sent % 10 == 0))
        await peer.datamover.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
