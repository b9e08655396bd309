"""Tests of target.server: portals, limits, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

import initiator
from iser.errors import BackendError, ConnectionFailed, ConnectionRejected, LoginError
from iser.login import Wishes
from iser.net import busy_poll, busypoll
from iser.pdu import FINAL, RESERVED_TAG, NopIn, NopOut, Pdu, ScsiResponse, TextRequest, TextResponse
from iser.scsi.cdb import write_blocks
from target import server as server_module
from target.config import Config
from target.server import TargetServer
from target.transport import MAX_DATA_RECEIVES
from tests.target.peer import TARGET, Peer, config, disk, leave_nothing, served, serving, settled, until

SLOW = {"on": "write", "action": "delay", "count": 9, "seconds": 0.1}


async def ping(peer: Peer) -> None:
    itt = peer.send(NopOut())
    assert (await peer.expect(NopIn)).itt == itt


async def addresses_told(port: int, host: str = "127.0.0.1") -> list[str]:
    """What SendTargets says to an initiator that connected to ``host``."""
    peer = Peer()
    await peer.connect(port, host=host)
    await peer.log_in(Wishes(max_recv_data_segment_length=8192), discovery=True, target_name="")
    bhs = TextRequest(flags=FINAL, itt=9, ttt=RESERVED_TAG, cmd_sn=peer.cmd_sn)
    peer.datamover.send_control(Pdu(bhs, b"SendTargets=All\0"))
    pdu = await peer.receive()
    assert isinstance(pdu.bhs, TextResponse)
    await peer.datamover.close()
    return [part[14:].decode() for part in bytes(pdu.data).split(b"\0") if part.startswith(b"TargetAddress=")]


async def test_every_portal_serves_and_is_told() -> None:
    portals = {name: {"listen": f"iser://{host}:0"} for name, host in (("a", "127.0.0.1"), ("b", "[::1]"))}
    async with serving(config(portal=portals)) as (server, port):
        (_, one), (_, two) = server.addresses
        assert port == one
        async with served(one) as peer:
            await ping(peer)
        expected = [f"127.0.0.1:{one},1", f"[::1]:{two},1"]
        assert await addresses_told(one) == expected
        assert await addresses_told(two, "::1") == expected


async def test_a_wildcard_portal_is_told_as_the_address_that_was_reached() -> None:
    async with serving(config(portal={"any": {"listen": "iser://0.0.0.0:0"}})) as (_, port):
        assert await addresses_told(port) == [f"127.0.0.1:{port},1"]


async def test_running_commands_are_answered_before_the_end() -> None:
    async with serving(config(target=disk(SLOW))) as (server, port):
        peer = Peer()
        await peer.connect(port)
        await peer.log_in()
        await peer.clear_attention()
        itt = peer.send_command(write_blocks(0, 1), write=bytes(512))
        await settled()
        closing = asyncio.create_task(server.close())
        assert (await peer.expect(ScsiResponse)).itt == itt
        assert isinstance(await peer.over(), EOFError)
        await closing
        await peer.datamover.close()


async def test_commands_that_take_too_long_are_dropped() -> None:
    async with serving(config(target=disk(SLOW | {"seconds": 0.3}))) as (server, port):
        peer = Peer()
        await peer.connect(port)
        await peer.log_in()
        await peer.clear_attention()
        peer.send_command(write_blocks(0, 1), write=bytes(512))
        await settled()
        closing = asyncio.create_task(server.close(drain=0.05))
        assert isinstance(await peer.over(), EOFError)
        await closing
        await peer.datamover.close()


async def test_nobody_logs_in_while_the_server_drains() -> None:
    async with serving(config(target=disk(SLOW | {"seconds": 0.6}))) as (server, port), served(port) as peer:
        late = Peer()
        await late.connect(port)
        peer.send_command(write_blocks(0, 1), write=bytes(512))
        await settled()
        closing = asyncio.create_task(server.close())
        await settled()
        with pytest.raises(LoginError) as caught:
            await late.log_in(isid=b"abcdef")
        assert (caught.value.status_class, caught.value.status_detail) == (3, 1)
        await closing
        await late.datamover.close()


async def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CLOSING", -1)
    async with serving(config(limits={"max_sessions": 1, "max_logins": 2})) as (_, port):
        peers = [Peer() for _ in range(3)]
        for peer in peers[:2]:
            await peer.connect(port)
        await peers[0].log_in()
        with pytest.raises(ConnectionRejected):
            await peers[2].connect(port)
        await peers[0].datamover.close()
        await settled()
        await peers[2].connect(port)
        for peer in peers[1:]:
            await peer.datamover.close()


async def test_a_port_in_use_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        portals = {
            "free": {"listen": "iser://127.0.0.1:0"},
            "taken": {"listen": f"iser://127.0.0.1:{taken.getsockname()[1]}"},
        }
        target = disk(backend="file", path=str(tmp_path / "disk"), size="1M")
        with pytest.raises(ConnectionFailed, match="in use"):
            await TargetServer.start(config(portal=portals, target=target))
    await leave_nothing()
    async with serving(config(target=target)):  # the file is not locked by what was left
        pass


async def test_a_backend_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    good: dict[str, Any] = {"id": 0, "backend": "file", "path": str(tmp_path / "a"), "size": "1M"}
    bad = {"id": 1, "backend": "file", "path": str(tmp_path)}
    first = ({"name": TARGET + "1", "lun": (good | {"path": str(tmp_path / "b")},)},)
    with pytest.raises(BackendError):
        await TargetServer.start(config(target=(*first, {"name": TARGET, "lun": (good, bad)})))
    await leave_nothing()


async def test_a_burst_is_no_longer_than_a_full_window_of_it_has_receives() -> None:
    limits = {"initial_r2t": False, "first_burst_length": "1M", "max_burst_length": "1M", "queue_depth": 256}
    wishes = Wishes(initial_r2t=False, first_burst_length=1 << 20, max_burst_length=1 << 20)
    async with serving(config(limits=limits)) as (_, port), served(port, wishes) as peer:
        each = peer.login.params.first_burst_length / 8192
        assert each >= 1
        assert each * 256 <= MAX_DATA_RECEIVES


# Polling before sleeping


def polling(microseconds: int, workers: int = 1) -> Config:
    return config(limits={"busy_poll_us": microseconds}, workers=workers)


async def test_it_polls_as_long_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "spare_processors", lambda processes: processes < 3)
    async with serving(config()) as (server, _):
        assert server.busy_poll.window == pytest.approx(200e-6)
        assert server.busy_poll is busy_poll()
        for wanted, window in ((polling(20), 20e-6), (polling(20, workers=2), 20e-6), (polling(20, workers=3), 0.0)):
            await server.reload(wanted)
            assert server.busy_poll.window == pytest.approx(window)
        await server.reload(polling(0))
        assert server.busy_poll.window == 0
        await server.reload(config())
    assert server.busy_poll.window == 0


@pytest.mark.parametrize("transport", ["iser", "iscsi"])
async def test_quick_requests_are_waited_for_awake(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    monkeypatch.setattr(server_module, "spare_processors", lambda _: True)
    monkeypatch.setattr(busypoll, "CONTENDED", 60.0)  # on a machine that others use, too
    limits, portal = {"busy_poll_us": 1000}, {"p": {"listen": f"{transport}://127.0.0.1:0"}}
    async with serving(config(limits=limits, portal=portal)) as (server, port):
        server.busy_poll.window = 0.5
        async with await initiator.connect(f"{transport}://127.0.0.1:{port}/{TARGET}/0") as lun:
            for _ in range(50):
                await lun.read(0, 8)
        assert server.busy_poll.won > 25


async def test_nothing_is_polled_while_a_backend_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads need the interpreter, which who polls would keep."""
    monkeypatch.setattr(server_module, "spare_processors", lambda _: True)
    async with serving(config(target=disk(SLOW))) as (server, port), served(port) as peer:
        command = asyncio.create_task(peer.command(write_blocks(0, 1), write=bytes(512)))
        await until(lambda: server.busy_poll.held)
        assert server.busy_poll.held == 1
        await command
        await until(lambda: not server.busy_poll.held)
        assert server.busy_poll.held == 0
