"""Connecting, accepting, refusing; peers that do it wrong; many at once."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from dataclasses import replace
from typing import Any

import pytest

from iser.errors import ConnectionFailed, ConnectionRejected, TerminateError, UsageError
from iser.rdma.api import (
    ConnectionParams,
    ConnectRequest,
    Device,
    QpCap,
    QpState,
    QueuePair,
    RdmaRead,
    RdmaWrite,
    Send,
    WcStatus,
)
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions, cm
from iser.rdma.softiwarp.mpa import FrameReader, MpaFrame, MpaInitiator, build_frame
from iser.rdma.softiwarp.options import HANDSHAKE_GRACE
from tests.rdma.softiwarp.conftest import Run
from tests.rdma.softiwarp.net import FAST, HOST, End, connected
from tests.rdma.softiwarp.support import buffer

REQUEST = MpaInitiator(b"", ird=8, ord=8, crc=False).request


async def never_asked(request: ConnectRequest) -> None:
    raise AssertionError("nobody may ask")


def plain_setup(device: Device) -> QueuePair:
    return End(device).qp


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_both_sides_learn_what_was_agreed(run: Run) -> None:
    async def main() -> None:
        params = ConnectionParams(b"to you", responder_resources=3, initiator_depth=200)
        async with connected(params=params) as (a, b):
            assert a.info is not None
            assert b.info is not None
            assert (a.info.private_data, b.info.private_data) == (b"to me", b"to you")
            assert (a.info.responder_resources, a.info.initiator_depth) == (3, 16)
            assert (b.info.responder_resources, b.info.initiator_depth) == (16, 3)
            assert a.info.local_address == b.info.remote_address
            assert a.info.remote_address == b.info.local_address
            assert a.qp.name == f"127.0.0.1:{a.info.remote_address[1]}"
            assert a.qp.state is QpState.RTS

    run(main())


@pytest.mark.parametrize(
    "values",
    [
        {"peer_to_peer": True},
        {"peer_to_peer": True, "crc": True},
        {"mpa_version": 1},
        {"crc": True},
        {"segment": "mss"},
        {"segment": 1000},
        {"socket_buffer": 0},
    ],
)
def test_every_way_to_set_up_carries_data(run: Run, values: dict[str, Any]) -> None:
    async def main() -> None:
        async with connected(replace(FAST, **values), FAST) as (a, b):
            target, back = buffer(10_000), buffer(10_000)
            mr = b.region([target])
            data = memoryview(os.urandom(10_000))
            a.qp.post_send(RdmaWrite(1, [data], mr.iova, mr.rkey), RdmaRead(2, [back], mr.iova, mr.rkey), Send(3, []))
            await a.completes(2)
            await b.completes(("recv", 0))
            assert target == data == back
            assert all(wc.status is WcStatus.SUCCESS for wc in a.log + b.log)
            assert not any(wc.wr_id is None for wc in a.log)

    run(main())


def test_ipv6(run: Run) -> None:
    async def main() -> None:
        asked: list[str] = []

        async def on_request(request: ConnectRequest) -> None:
            asked.append(request.info.remote_address[0])
            await request.reject()

        try:
            listener = await SoftIwarp(FAST).listen("::1", 0, on_request)
        except ConnectionFailed:
            return  # a machine without IPv6
        with pytest.raises(ConnectionRejected, match=r"\[::1\]:"):
            await SoftIwarp(FAST).connect("::1", listener.address[1], plain_setup, ConnectionParams())
        await listener.close()
        assert asked == ["::1"]

    run(main())


def test_a_refusal_with_private_data(run: Run) -> None:
    async def main() -> None:
        async def on_request(request: ConnectRequest) -> None:
            await request.reject(b"full")
            with pytest.raises(UsageError, match="answered"):
                await request.reject()

        listener = await SoftIwarp(FAST).listen(HOST, 0, on_request)
        ends: list[End] = []

        def setup(device: Device) -> QueuePair:
            ends.append(End(device))
            return ends[0].qp

        with pytest.raises(ConnectionRejected) as caught:
            await SoftIwarp(FAST).connect(HOST, listener.address[1], setup, ConnectionParams())
        assert caught.value.private_data == b"full"
        await asyncio.sleep(0)
        assert ends[0].qp.state is QpState.ERR
        assert ends[0].flushed() == 16
        assert not ends[0].ends
        await listener.close()

    run(main())


def test_a_handler_that_does_not_answer_refuses(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def forgets(request: ConnectRequest) -> None:
            return

        async def fails(request: ConnectRequest) -> None:
            raise ZeroDivisionError

        for handler in (forgets, fails):
            listener = await SoftIwarp(FAST).listen(HOST, 0, handler)
            with pytest.raises(ConnectionRejected):
                await SoftIwarp(FAST).connect(HOST, listener.address[1], plain_setup, ConnectionParams())
            await listener.close()

    run(main())
    assert "handler of the connection" in caplog.text


def test_nobody_listens(run: Run) -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"cannot connect to 127.0.0.1:{port}"):
            await SoftIwarp(FAST).connect(HOST, port, plain_setup, ConnectionParams())
        with pytest.raises(ConnectionFailed, match="cannot listen"):
            await SoftIwarp(FAST).listen("192.0.2.1", 0, never_asked)

    run(main())


def test_a_listener_that_does_not_answer(run: Run) -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as server:
            port = server.getsockname()[1]
            before = open_files()
            with pytest.raises(ConnectionFailed, match=r"did not answer within 0.1 s"):
                await SoftIwarp(FAST).connect(HOST, port, plain_setup, ConnectionParams(), timeout=0.1)
            assert open_files() == before

    run(main())


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak iWARP"),
        (b"", "closed the connection"),
        (build_frame(MpaFrame(0, 1, b""), reply=True), "mpa_version"),
        (build_frame(MpaFrame(0x90, 2, bytes(4)), reply=True), "markers"),
        (build_frame(MpaFrame(0x10, 2, b"\x00\x01\x00\xff"), reply=True), "2/0/06"),
        (build_frame(MpaFrame(0x10, 2, bytes(4)), reply=True)[:22], "closed the connection"),
    ],
)
def test_a_listener_that_answers_nonsense(run: Run, reply: bytes, text: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((HOST, 0)) as server:
            server.setblocking(False)
            connecting = loop.create_task(
                SoftIwarp(FAST).connect(HOST, server.getsockname()[1], plain_setup, ConnectionParams())
            )
            peer, _ = await loop.sock_accept(server)
            with peer:
                await loop.sock_recv(peer, 100)
                await loop.sock_sendall(peer, reply)
                peer.shutdown(socket.SHUT_WR)
                with pytest.raises(ConnectionFailed, match=text):
                    await connecting

    run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        REQUEST[:10],
        REQUEST[:-1],
        build_frame(MpaFrame(0x90, 2, bytes(4)), reply=False),
        build_frame(MpaFrame(0x10, 3, bytes(4)), reply=False),
        build_frame(MpaFrame(0x10, 2, b""), reply=False),
        REQUEST[:18] + b"\xff\xff",
    ],
)
def test_connections_that_do_not_start_properly(run: Run, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = await SoftIwarp(FAST).listen(HOST, 0, never_asked)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.address)
            await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
            reply = await loop.sock_recv(sock, 100)
            if reply:
                frame = FrameReader(reply=True).feed(reply)
                assert frame is not None
                assert frame.flags & 0x20
                assert await loop.sock_recv(sock, 100) == b""
        await listener.close()

    run(main())
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.INFO
    assert "refused" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_request_that_never_comes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = await SoftIwarp(replace(FAST, mpa_timeout=0.1)).listen(HOST, 0, never_asked)
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.address)
            await loop.sock_sendall(sock, REQUEST[:5])
            assert await loop.sock_recv(sock, 100) == b""
        await listener.close()

    run(main())
    assert "sent no MPA Request within 0.1 s" in caplog.text


def test_half_open_connections_are_limited_and_the_others_wait(run: Run) -> None:
    async def main() -> None:
        asked = 0

        async def on_request(request: ConnectRequest) -> None:
            nonlocal asked
            asked += 1
            await request.reject()

        loop = asyncio.get_running_loop()
        options = replace(FAST, max_pending=2, mpa_timeout=0.5)
        listener = await SoftIwarp(options).listen(HOST, 0, on_request)
        idle = [socket.create_connection(listener.address) for _ in range(2)]
        await asyncio.sleep(0.02)
        start = loop.time()
        with pytest.raises(ConnectionRejected):
            await SoftIwarp(FAST).connect(HOST, listener.address[1], plain_setup, ConnectionParams())
        assert loop.time() - start > HANDSHAKE_GRACE / 2
        assert asked == 1
        for sock in idle:
            sock.close()
        await listener.close()

    run(main())


def test_idle_connections_of_one_host_keep_nobody_out(run: Run) -> None:
    async def main() -> None:
        async def on_request(request: ConnectRequest) -> None:
            await request.reject()

        loop = asyncio.get_running_loop()
        listener = await SoftIwarp(replace(FAST, max_pending=4)).listen(HOST, 0, on_request)
        patient = socket.create_connection(listener.address, source_address=("127.0.0.3", 0))
        idle = [socket.create_connection(listener.address, source_address=("127.0.0.2", 0)) for _ in range(12)]
        start = loop.time()
        with pytest.raises(ConnectionRejected):
            await SoftIwarp(FAST).connect(HOST, listener.address[1], plain_setup, ConnectionParams())
        assert loop.time() - start < FAST.mpa_timeout / 2
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""
        patient.setblocking(False)
        with pytest.raises(BlockingIOError):
            patient.recv(1)  # has one connection only, and is not the one to go
        for sock in [patient, *idle]:
            sock.close()
        await listener.close()

    run(main())


def test_a_listener_survives_running_out_of_descriptors(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cm, "ACCEPT_PAUSE", 0.05)

    async def main() -> None:
        async def on_request(request: ConnectRequest) -> None:
            await request.reject()

        loop = asyncio.get_running_loop()
        listener = await SoftIwarp(FAST).listen(HOST, 0, on_request)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as sock:
            sock.setblocking(False)
            highest = max(int(name) for name in os.listdir("/proc/self/fd"))
            fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limits[1]))
            try:
                await loop.sock_connect(sock, listener.address)
                await loop.sock_sendall(sock, REQUEST)
                await asyncio.sleep(0.08)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for filler in fillers:
                    os.close(filler)
            async with asyncio.timeout(5):
                assert await loop.sock_recv(sock, 100)
        await listener.close()

    run(main())
    assert "cannot accept" in caplog.text


def test_a_listener_can_close_with_connections_in_every_state(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            answering = asyncio.Event()

            async def on_request(request: ConnectRequest) -> None:
                answering.set()
                await asyncio.sleep(0.05)

            listener = await SoftIwarp(FAST).listen(HOST, 0, on_request)
            half = socket.create_connection(listener.address)
            whole = socket.create_connection(listener.address)
            whole.sendall(REQUEST)
            async with asyncio.timeout(5):
                await answering.wait()
            await listener.close()
            await listener.close()
            assert half.recv(100) == b""
            whole.close()
            half.close()
            a.qp.post_send(Send(1, []))
            await b.completes(("recv", 0))
            await asyncio.sleep(0.1)
            with pytest.raises(ConnectionFailed):
                await SoftIwarp(FAST).connect(HOST, listener.address[1], plain_setup, ConnectionParams())

    run(main())


def test_accepting_a_peer_that_has_gone(run: Run) -> None:
    async def main() -> None:
        done = asyncio.Event()
        ended: list[object] = []

        async def on_request(request: ConnectRequest) -> None:
            sock.close()
            await asyncio.sleep(0.05)
            end = End(request.device)
            try:
                await request.accept(end.qp, ConnectionParams())
                ended.append(await end.over())
            except ConnectionFailed as error:
                ended.append(error)
            await end.qp.close()
            done.set()

        listener = await SoftIwarp(FAST).listen(HOST, 0, on_request)
        sock = socket.create_connection(listener.address)
        sock.sendall(REQUEST)
        async with asyncio.timeout(5):
            await done.wait()
        assert len(ended) == 1
        await listener.close()

    run(main())


def test_a_queue_pair_connects_once(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, _):
            assert a.info is not None
            port = a.info.remote_address[1]
            with pytest.raises(Exception, match=r"create a new one|refused"):
                await SoftIwarp(FAST).connect(HOST, port, lambda device: a.qp, ConnectionParams())

    run(main())


def test_cancelling_a_connect_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as server:
            before = open_files()
            task = asyncio.ensure_future(
                SoftIwarp(FAST).connect(HOST, server.getsockname()[1], plain_setup, ConnectionParams())
            )
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert open_files() == before

    run(main())


def test_a_thousand_connects_and_drops_leak_nothing(run: Run) -> None:
    """Descriptors, keys, tasks: every third one is dropped by a reset, the others are closed by either side."""

    async def main() -> None:
        server, client = SoftIwarp(FAST), SoftIwarp(FAST)

        async def on_request(request: ConnectRequest) -> None:
            qp = _small(request.device)
            over = asyncio.Event()
            qp.on_disconnect = lambda reason: over.set()
            await request.accept(qp, ConnectionParams())
            await over.wait()
            await qp.close()

        async def one(number: int) -> None:
            qp, _ = await client.connect(HOST, listener.address[1], _small, ConnectionParams())
            qp.post_send(Send(number, [memoryview(b"hello")]))
            if number % 3 == 0:
                qp.abort(TerminateError("dropped", 0, 0, 0))
            await qp.close()

        listener = await server.listen(HOST, 0, on_request)
        before = open_files()
        for start in range(0, 1000, 20):
            await asyncio.gather(*(one(start + i) for i in range(20)))
        async with asyncio.timeout(10):
            while server.device.keys.regions or open_files() > before:  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(0.01)
        assert not client.device.keys.regions
        await listener.close()

    run(main())


def _small(device: Device) -> QueuePair:
    qp = device.create_qp(device.alloc_pd(), device.create_cq(64, lambda batch: None), QpCap(8, 8))
    qp.post_recv(None, buffer(64))
    return qp


def test_crc_is_asked_for_by_either_side_only_when_set(run: Run) -> None:
    async def main() -> None:
        for ours in (False, True, "auto"):
            for theirs in (False, True):
                mine: SoftIwarpOptions = replace(FAST, crc=ours)
                async with connected(mine, replace(FAST, crc=theirs)) as (a, b):
                    assert a.qp.core.tx.crc == b.qp.core.rx.crc == (ours is True or theirs)

    run(main())
