"""The target over TCP against peers that misbehave: garbage, half PDUs, half transfers, and many of them."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import initiator
from initiator.establish import Link, open_session
from initiator.options import ConnectOptions
from initiator.url import Portal
from iser.datamover.tcp import TcpInitiator
from iser.pdu import COMMAND_WRITE, FINAL, DataOut, NopOut, Pdu, ScsiCommand, SnackRequest, encode, encode_bhs
from iser.scsi.cdb import write_blocks
from target.server import TargetServer
from tests.target.peer import TARGET, config, disk, serving, settled, until

ITT, BURST = 0xABCDEF, 262144


@asynccontextmanager
async def tcp(**tables: Any) -> AsyncIterator[tuple[TargetServer, Portal]]:
    base = {"portal": {"p": {"listen": "iscsi://127.0.0.1:0"}}}
    async with serving(config(**(base | tables))) as (server, port):
        yield server, Portal("127.0.0.1", port, "tcp")


async def works(portal: Portal) -> None:
    """A session still does what it should."""
    async with await initiator.connect(initiator.Url(portal, TARGET)) as lun:
        data = os.urandom(512 * 300)
        await lun.write(0, data)
        assert await lun.read(0, 300) == data


def raw(link: Link) -> socket.socket:
    """The socket of a session, to send whatever one wants."""
    datamover = link.datamover
    assert isinstance(datamover, TcpInitiator)
    sock = datamover._stream._sock
    assert sock is not None
    return sock


async def logged_in(portal: Portal, **options: Any) -> Link:
    return await open_session(portal, TARGET, ConnectOptions(**options))


async def begin_write(link: Link, blocks: int) -> socket.socket:
    """Send a WRITE behind the initiator's back: its R2T is not answered.  Returns the socket."""
    session, datamover = link.session, link.datamover
    assert isinstance(datamover, TcpInitiator)
    await session.execute(0, bytes(6))  # takes the unit attention
    datamover._dropped.append(ITT)
    cdb = write_blocks(0, blocks).ljust(16, b"\0")
    bhs = ScsiCommand(flags=FINAL | COMMAND_WRITE, itt=ITT, edtl=blocks * 512, cmd_sn=session._cmd_sn, cdb=cdb)
    session._cmd_sn += 1
    raw(link).send(encode(Pdu(bhs)))
    await settled()
    return raw(link)


def first_burst(fill: bytes) -> bytes:
    """What answers the R2T, which is the target's first."""
    bhs = DataOut(flags=FINAL, itt=ITT, ttt=1, data_segment_length=BURST)
    return encode_bhs(bhs) + fill * BURST


async def test_garbage_instead_of_a_login_closes_that_connection_only() -> None:
    chance = random.Random(1)
    async with tcp() as (server, portal):
        for _ in range(40):
            with socket.create_connection(portal[:2]) as sock:
                sock.setblocking(False)
                sock.send(chance.randbytes(chance.randrange(1, 400)))
                if chance.random() < 0.5:
                    await asyncio.sleep(0.002)
        await works(portal)
        await until(lambda: server.sessions == 0)


async def test_garbage_in_a_session_is_rejected_or_ends_it_and_nothing_else() -> None:
    chance = random.Random(2)
    async with tcp() as (server, portal):
        for _ in range(40):
            link = await logged_in(portal)
            sock = raw(link)
            for _ in range(chance.randrange(1, 5)):
                wire = bytearray(chance.randbytes(48))
                wire[0] = chance.choice((0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x40, 0x41, 0x42, 0x46, 0x1E))
                wire[4:8] = bytes((0, 0, 0, chance.choice((0, 4, 40))))
                try:
                    sock.send(bytes(wire) + chance.randbytes(wire[7]))
                except OSError:
                    break
            await asyncio.sleep(0.002)
            await link.session.close()
        await until(lambda: server.sessions == 0)
        await works(portal)


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("sent", [0, 100, 60_000])
async def test_a_peer_that_vanishes_in_a_write_leaves_nothing(file: bool, sent: int, tmp_path: Path) -> None:
    target = disk(backend="file", path=str(tmp_path / "disk"), size="1M") if file else disk()
    async with tcp(target=target, limits={"immediate_data": False}) as (server, portal):
        link = await logged_in(portal, immediate_data=False)
        sock = await begin_write(link, 1024)
        sock.send(first_burst(b"\xff")[:sent])
        await settled()
        assert server.staging.in_use == (524288 if file else 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        link.session._datamover.abort(initiator.ConnectionLost("vanished"))
        await until(lambda: server.sessions == 0 and not server.staging.in_use)
        assert server.staging.in_use == 0
        await link.session.close()
        await works(portal)


async def test_a_peer_that_vanishes_in_a_read_leaves_nothing(tmp_path: Path) -> None:
    target = disk(backend="file", path=str(tmp_path / "disk"), size="64M")
    async with tcp(target=target) as (server, portal):
        lun = await initiator.connect(initiator.Url(portal, TARGET))
        reads = [asyncio.create_task(lun.read(0, 16384)) for _ in range(4)]
        await settled()
        lun.session._datamover.abort(initiator.ConnectionLost("vanished"))
        await asyncio.gather(*reads, return_exceptions=True)
        await until(lambda: server.sessions == 0 and not server.staging.in_use)
        assert server.staging.in_use == 0
        await lun.close()


async def test_snack_and_unknown_opcodes_are_rejected_and_the_session_lives() -> None:
    async with tcp() as (_, portal):
        link = await logged_in(portal)
        for wire in (encode(Pdu(SnackRequest())), b"\x1e" + bytes(47)):
            raw(link).send(wire)
        assert await link.session.nop(b"alive") == b"alive"
        await link.session.close()


async def test_a_thousand_connects_and_drops_leak_nothing() -> None:
    async with tcp(limits={"max_logins": 64}) as (server, portal):
        await works(portal)
        before = len(os.listdir("/proc/self/fd"))
        loop = asyncio.get_running_loop()
        for number in range(1000):
            with socket.socket() as sock:
                sock.setblocking(False)
                # The target is in this very loop: a connect that blocked would wait for ever on a full backlog.
                await loop.sock_connect(sock, portal[:2])
                if number % 3:
                    sock.send(encode(Pdu(NopOut()))[: number % 48])
        await until(lambda: not server._connections)
        assert not server._connections
        assert abs(len(os.listdir("/proc/self/fd")) - before) <= 2
        await works(portal)


async def test_a_write_that_is_reset_while_its_data_comes_gets_none_of_it() -> None:
    async with tcp(limits={"immediate_data": False}) as (_, portal):
        link = await logged_in(portal, immediate_data=False)
        sock = await begin_write(link, 1024)
        data_out = first_burst(b"\xff")
        sock.send(data_out[:30_000])
        await settled()
        async with await initiator.connect(initiator.Url(portal, TARGET)) as other:
            # By another session, while the first one is in the middle of a PDU.
            assert await other.session.lun_reset(0) == 0
            rest = memoryview(data_out)[30_000:]
            await asyncio.get_running_loop().sock_sendall(sock, rest)
            await settled()
            with pytest.raises(initiator.IserError):
                await other.execute(bytes(6))  # the reset's unit attention
            memory = await other.read(64, 1024)
            assert not any(memory)
        assert await link.session.nop(b"alive") == b"alive"
        await link.session.close()
