"""The queue pair on sockets: data, batches, back pressure, every way to end."""

from __future__ import annotations

import asyncio
import random
import select
import socket
import struct
from dataclasses import replace

import pytest

from iser.errors import ConnectionLost, LocalProtocolError, TerminateError
from iser.rdma.api import (
    ConnectionParams,
    Device,
    LocalInv,
    QpState,
    RdmaRead,
    RdmaWrite,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.rdma.softiwarp.mpa import FrameReader, MpaInitiator, MpaResponder
from iser.rdma.softiwarp.qp import HAND_OVER, SoftQueuePair
from iser.rdma.softiwarp.rx import Receiver
from tests.rdma.softiwarp.conftest import Run
from tests.rdma.softiwarp.net import FAST, End, against_a_socket, connected
from tests.rdma.softiwarp.support import buffer, read_request, tagged, untagged

REQUEST = MpaInitiator(b"", ird=8, ord=8, crc=False).request


@pytest.mark.parametrize(
    "options", [FAST, replace(FAST, crc=True), replace(FAST, segment=1434), replace(FAST, segment="mss")]
)
def test_write_read_and_send_of_every_size(run: Run, options: SoftIwarpOptions) -> None:
    async def main() -> None:
        async with connected(options) as (a, b):
            store = [buffer(n) for n in (1000, 300_000, 0, 5, 1_000_000)]
            mr = b.region(store)
            rng = random.Random(1)
            for size in (0, 1, 511, 4096, 65_537, 1_300_000):
                data = memoryview(rng.randbytes(size))
                back = [buffer(size // 3), buffer(size - size // 3)]
                a.qp.post_send(
                    RdmaWrite(None, [data], mr.iova + 5, mr.rkey), RdmaRead(("read", size), back, mr.iova + 5, mr.rkey)
                )
                wc = await a.completes(("read", size))
                assert wc == (("read", size), WcStatus.SUCCESS, WcOpcode.RDMA_READ, size, 0)
                assert b"".join(back) == data
            a.qp.post_send(Send("send", [memoryview(b"hello")], invalidate=mr.rkey))
            wc = await b.completes(("recv", 0))
            assert (wc.byte_len, wc.invalidated_rkey) == (5, mr.rkey)
            assert bytes(b.receives[0][:5]) == b"hello"
            assert b.pd.valid_keys == 0

    run(main())


def test_both_directions_at_once(run: Run) -> None:
    async def main() -> None:
        async with connected() as ends:
            regions = [end.region([buffer(4 << 20)]) for end in ends]
            data = memoryview(random.Random(2).randbytes(4 << 20))
            for end, mr in zip(ends, reversed(regions), strict=True):
                for i in range(8):
                    end.qp.post_send(RdmaWrite(i, [data], mr.iova, mr.rkey, signaled=True))
                end.qp.post_send(Send("done", []))
            for end in ends:
                await end.completes(("recv", 0))
            for mr in regions:
                assert mr.slices(0, len(data))[0] == data  # type: ignore[attr-defined]  # the region is ours

    run(main())


def test_a_wakeup_reads_no_more_once_its_budget_is_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, wakeups = 128 << 10, [[0]]
    monkeypatch.setattr("iser.rdma.softiwarp.qp.READ_BUDGET", budget)
    read, received = SoftQueuePair._read, Receiver.received

    def watched_read(self: SoftQueuePair) -> None:
        wakeups.append([])
        read(self)

    def watched_received(self: Receiver, count: int) -> None:
        wakeups[-1].append(count)
        received(self, count)

    monkeypatch.setattr(SoftQueuePair, "_read", watched_read)
    monkeypatch.setattr(Receiver, "received", watched_received)

    async def main() -> None:
        async with connected() as (a, b):
            mr = b.region([buffer(4 << 20)])
            a.qp.post_send(RdmaWrite("write", [buffer(4 << 20)], mr.iova, mr.rkey), Send("send", []))
            await b.completes(("recv", 0))

    run(main())
    assert any(sum(counts) >= budget for counts in wakeups)
    assert all(sum(counts[:-1]) < budget for counts in wakeups)


def test_completions_come_in_batches_and_never_inside_a_post(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            before = a.batches
            for i in range(HAND_OVER):
                a.qp.post_send(Send(i, [memoryview(bytes(10))]))
                assert not a.log
            await b.completes(("recv", HAND_OVER - 1))
            assert a.batches == before + 1

    run(main())


async def send_at_once(end: End, other: End, count: int) -> None:
    """Have ``other`` find ``count`` Sends of a byte in one wakeup."""
    end.qp.post_send(*[Send(None, [memoryview(bytes([i]))], signaled=False) for i in range(count)])
    await other.until(lambda: any(wc.wr_id == ("recv", count - 1) for wc in other.log))


def test_the_first_answers_to_a_large_batch_leave_before_its_last_completion(run: Run) -> None:
    async def main() -> None:
        async with connected(receives=3 * HAND_OVER) as (a, b):
            arrived = []

            def answer(wc: WorkCompletion) -> None:
                if wc.opcode is WcOpcode.RECV and wc.status is WcStatus.SUCCESS:
                    arrived.append(has_come(a))
                    b.qp.post_send(Send(None, [memoryview(b"answer")], signaled=False))

            b.handler = answer
            await send_at_once(a, b, 3 * HAND_OVER)
            assert arrived == [False] * HAND_OVER + [True] * 2 * HAND_OVER
            await a.completes(("recv", 3 * HAND_OVER - 1))

    run(main())


def has_come(end: End) -> bool:
    """Are there bytes in the socket of ``end``?"""
    assert end.qp._sock is not None
    return bool(select.select((end.qp._sock,), (), (), 0)[0])


@pytest.mark.parametrize("what", ["abort", "disconnect", "failure"])
@pytest.mark.parametrize("at", [0, HAND_OVER - 1, HAND_OVER, 2 * HAND_OVER])
def test_each_completion_of_a_large_batch_is_handed_over_once_whatever_a_handler_does(
    run: Run, what: str, at: int
) -> None:
    async def main() -> None:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
        async with connected(receives=4 * HAND_OVER) as (a, b):

            def act(wc: WorkCompletion) -> None:
                b.qp.post_send(Send(None, [memoryview(b"answer")], signaled=False))
                if wc.wr_id != ("recv", at):
                    return
                if what == "abort":
                    b.qp.abort(ConnectionLost("no"))
                elif what == "disconnect":
                    b.qp.disconnect()
                else:
                    raise ZeroDivisionError

            b.handler = act
            await send_at_once(a, b, 3 * HAND_OVER)
            a.qp.disconnect()
            await b.over()
            await b.completes(("recv", 4 * HAND_OVER - 1))
        receives = [wc.wr_id for wc in b.log if wc.opcode is WcOpcode.RECV]
        assert receives == [("recv", number) for number in range(4 * HAND_OVER)]
        assert [type(error) for error in seen] == [ZeroDivisionError] * (what == "failure")

    run(main())


def test_a_handler_may_post_from_within(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):

            def echo(wc: WorkCompletion) -> None:
                if wc.opcode is WcOpcode.RECV and wc.status is WcStatus.SUCCESS:
                    b.qp.post_send(Send("echo", [b.receives[0][: wc.byte_len]], signaled=False))

            b.handler = echo
            a.qp.post_send(Send("hello", [memoryview(b"hello")]))
            await a.completes(("recv", 0))
            assert bytes(a.receives[0][:5]) == b"hello"

    run(main())


def test_a_handler_that_fails_does_not_stop_the_connection(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            seen: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))

            def fail(wc: WorkCompletion) -> None:
                raise ZeroDivisionError

            b.handler = fail
            a.qp.post_send(Send("one", []))
            await b.completes(("recv", 0))
            b.handler = lambda wc: None
            a.qp.post_send(Send("two", []))
            await b.completes(("recv", 1))
            assert [type(error) for error in seen] == [ZeroDivisionError]

    run(main())


def test_an_orderly_end_sends_what_is_posted(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            mr = b.region([buffer(3_000_000)])
            a.qp.post_send(RdmaWrite("write", [memoryview(bytes(3_000_000))], mr.iova, mr.rkey), Send("bye", []))
            a.qp.disconnect()
            a.qp.disconnect()
            assert a.qp.state is QpState.ERR
            assert await b.over() is None
            assert await a.over() is None
            assert b.log[0] == (("recv", 0), WcStatus.SUCCESS, WcOpcode.RECV, 0, 0)
            assert (await a.completes("bye")).status is WcStatus.SUCCESS
            assert (a.flushed(), b.flushed()) == (16, 15)
        assert (a.ends, b.ends) == ([None], [None])

    run(main())


def test_posts_after_the_end_are_flushed(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, _):
            a.qp.disconnect()
            a.qp.post_send(Send("late", []), LocalInv("inv", 1))
            assert (await a.completes("late")).status is WcStatus.WR_FLUSH_ERR
            await a.over()
            a.qp.post_recv("recv late", buffer(1))
            assert (await a.completes("recv late")).status is WcStatus.WR_FLUSH_ERR

    run(main())


def test_abort_ends_both_sides(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            reason = ConnectionLost("had enough")
            a.qp.post_send(Send("lost", []))
            a.qp.abort(reason)
            a.qp.abort(ConnectionLost("again"))
            assert not a.ends
            assert await a.over() is reason
            assert (await a.completes("lost")).status is WcStatus.WR_FLUSH_ERR
            await b.over()
            assert b.flushed() == 16
        assert len(a.ends) == len(b.ends) == 1

    run(main())


@pytest.mark.parametrize("action", ["abort", "disconnect", "close"])
def test_a_handler_may_end_the_connection(run: Run, action: str) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            tasks = []

            def end(wc: WorkCompletion) -> None:
                if wc.status is not WcStatus.SUCCESS:
                    return
                if action == "abort":
                    b.qp.abort(ConnectionLost("no"))
                elif action == "disconnect":
                    b.qp.disconnect()
                else:
                    tasks.append(asyncio.ensure_future(b.qp.close()))

            b.handler = end
            a.qp.post_send(*[Send(i, [memoryview(bytes(100))]) for i in range(5)])
            await a.over()
            await b.over()
            await asyncio.gather(*tasks)
            assert len(b.log) == 16

    run(main())


def test_a_protocol_error_is_told_to_the_peer_and_to_both_users(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            a.qp.post_send(RdmaWrite("bad", [memoryview(b"data")], 0x1000, 0xDEADBE00))
            ours, theirs = await a.over(), await b.over()
            for error in (ours, theirs):
                assert isinstance(error, TerminateError)
                assert (error.layer, error.etype, error.code) == (1, 1, 0)
            assert (a.flushed(), b.flushed()) == (16, 16)

    run(main())


def test_a_terminate_survives_a_flood(run: Run) -> None:
    """The peer is in the middle of sending megabytes when it is told; it must still be able to read why."""

    async def main() -> None:
        async with connected() as (a, b):
            mr = b.region([buffer(1 << 20)])
            data = memoryview(bytes(1 << 20))
            a.qp.post_send(*[RdmaWrite(i, [data], mr.iova, mr.rkey) for i in range(100)])
            await asyncio.sleep(0.01)
            mr.close()
            assert isinstance(await b.over(), TerminateError)
            assert isinstance(await a.over(), TerminateError)

    run(main())


def test_a_terminate_is_the_reason_even_if_a_reset_follows(run: Run) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST) as (end, sock):
            terminate = untagged(0x0147, bytes.fromhex("02020000"), qn=2)
            await asyncio.get_running_loop().sock_sendall(sock, terminate)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            reason = await end.over()
            assert isinstance(reason, TerminateError)
            assert (reason.layer, reason.etype, reason.code) == (2, 0, 2)

    run(main())


def test_a_peer_that_stops_reading(run: Run) -> None:
    async def main() -> None:
        options = replace(FAST, stall_timeout=0.2, socket_buffer=65536)
        async with against_a_socket(REQUEST, options) as (end, sock):
            mr = end.region([buffer(32 << 20)])
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, read_request(mr.rkey, mr.iova, 32 << 20))
            reason = await end.over()
            assert isinstance(reason, ConnectionLost)
            assert "has not read for 0.2 s" in str(reason)
            assert end.flushed() == 16

    run(main())


def test_a_peer_that_reads_slowly_is_not_cut_off(run: Run) -> None:
    async def main() -> None:
        options = replace(FAST, stall_timeout=0.4, socket_buffer=16384)
        async with against_a_socket(REQUEST, options) as (end, sock):
            size = 8 << 20
            mr = end.region([buffer(size)])
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, read_request(mr.rkey, mr.iova, size))
            start = loop.time()
            while loop.time() - start < 0.6:
                assert await loop.sock_recv(sock, 1 << 15)
                await asyncio.sleep(0.02)
            assert end.qp.core.tx.unsent
            assert not end.ends

    run(main())


@pytest.mark.parametrize("reset", [False, True])
def test_a_peer_that_vanishes_in_the_middle(run: Run, reset: bool) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST) as (end, sock):
            data = buffer(60_000)
            mr = end.region([data])
            end.qp.post_send(RdmaRead("read", [buffer(100)], 0, 1), Send("send", []))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, tagged(0x8140, 1, 0))  # we may send from here on
            await loop.sock_sendall(sock, tagged(0x8140, mr.rkey, mr.iova, bytes(60_000))[:30_000])
            await end.completes("send")
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            assert isinstance(await end.over(), ConnectionLost)
            assert (await end.completes("read")).status is WcStatus.WR_FLUSH_ERR
            assert end.flushed() == 17
            mr.close()
        assert end.pd.valid_keys == 0

    run(main())


def test_a_peer_that_closes_between_messages_is_an_orderly_end(run: Run) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST) as (end, sock):
            await asyncio.get_running_loop().sock_sendall(sock, untagged(0x0143, b"bye"))
            sock.close()
            assert await end.over() is None
            assert (await end.completes(("recv", 0))).byte_len == 3

    run(main())


def test_garbage_ends_the_connection(run: Run) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST) as (end, sock):
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n" * 20_000)
            assert isinstance(await end.over(), TerminateError)

    run(main())


def test_a_peer_that_does_not_close_cannot_hold_us(run: Run) -> None:
    async def main() -> None:
        options = replace(FAST, linger_timeout=0.1)
        async with against_a_socket(REQUEST, options) as (end, _):
            start = asyncio.get_running_loop().time()
            await end.qp.close()
            assert 0.05 < asyncio.get_running_loop().time() - start < 2
            assert end.ends == [None]

    run(main())


def test_close_has_a_timeout(run: Run) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST, replace(FAST, linger_timeout=60)) as (end, _):
            await end.qp.close(timeout=0.05)
            assert isinstance(end.ends[0], ConnectionLost)
            await end.qp.close()
        assert len(end.ends) == 1

    run(main())


def test_a_queue_pair_that_was_never_connected(run: Run) -> None:
    async def main() -> None:
        end = End(SoftIwarp().device, receives=3)
        states = [end.qp.state]
        with pytest.raises(LocalProtocolError, match="not connected"):
            end.qp.post_send(Send(1, []))
        await end.qp.close()
        assert [*states, end.qp.state] == [QpState.INIT, QpState.ERR]
        assert end.flushed() == 3
        assert end.ends == [None]

    run(main())


def test_no_completion_after_the_queue_is_closed(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, _):
            a.cq.close()
            a.qp.post_send(Send(1, []))
        assert not a.log

    run(main())


def test_more_than_the_socket_takes_goes_out_as_the_peer_reads(run: Run) -> None:
    async def main() -> None:
        options = replace(FAST, socket_buffer=8192)
        async with connected(options) as (a, b):
            size = 5 << 20
            mr = b.region([buffer(size)])
            data = memoryview(random.Random(5).randbytes(size))
            a.qp.post_send(RdmaWrite("w", [data[i : i + 70_001] for i in range(0, size, 70_001)], mr.iova, mr.rkey))
            a.qp.post_send(Send("done", []))
            await b.completes(("recv", 0))
            back = buffer(size)
            a.qp.post_send(RdmaRead("r", [back], mr.iova, mr.rkey))
            await a.completes("r")
            assert back == data

    run(main())


def test_the_first_frame_waits_and_is_followed_by_a_nudge(run: Run) -> None:
    """The kernel's siw can miss a frame that comes with its reply, until more bytes arrive."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            ends: list[End] = []
            provider = SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0.05, nudge_delay=0.1))

            def setup(device: Device) -> SoftQueuePair:
                ends.append(End(device))
                return ends[0].qp

            connecting = asyncio.ensure_future(
                provider.connect("127.0.0.1", server.getsockname()[1], setup, ConnectionParams())
            )
            peer, _ = await loop.sock_accept(server)
            with peer:
                frame = FrameReader(reply=False).feed(await loop.sock_recv(peer, 100))
                assert frame is not None
                reply, _ = MpaResponder(frame).accept(b"", ird=1, ord=1, crc=False)
                await loop.sock_sendall(peer, reply)
                await connecting
                start = loop.time()
                ends[0].qp.post_send(Send(1, [memoryview(b"login")]))
                assert await loop.sock_recv(peer, 100) == untagged(0x0143, b"login")
                assert loop.time() - start > 0.04
                assert await loop.sock_recv(peer, 100) == tagged(0x8140, 1, 0)
                assert loop.time() - start > 0.13
                ends[0].qp.disconnect()
                assert await loop.sock_recv(peer, 100) == b""
            await ends[0].qp.close()

    run(main())


def test_what_is_posted_before_the_first_frame_may_go_out_is_not_lost_by_a_disconnect(run: Run) -> None:
    async def main() -> None:
        async with connected(SoftIwarpOptions(first_fpdu_delay=0.05)) as (a, b):
            a.qp.post_send(Send(1, [memoryview(b"login")]))
            a.qp.disconnect()
            assert (await b.completes(("recv", 0))).byte_len == 5
            await a.over()

    run(main())


def test_queue_pairs_leave_no_memory_behind(run: Run) -> None:
    async def main() -> None:
        async with connected() as (a, b):
            a.qp.post_send(Send(1, []))
            await b.completes(("recv", 0))
        assert a.qp.core.get_buffers()[0].nbytes == 0
        assert not a.pd.valid_keys

    run(main())


def test_what_follows_a_lone_completion_goes_out_at_once(run: Run) -> None:
    """And only that: what follows several, or comes after it, goes together once per turn of the loop."""

    async def main() -> None:
        async with connected() as (a, b):
            hello = [memoryview(b"hello")]
            a.qp.post_send(Send("one", hello))
            await b.completes(("recv", 0))
            b.qp.post_send(Send("lone", hello))
            assert not b.qp.core.tx.pending
            b.qp.post_send(Send("together", hello))
            assert b.qp.core.tx.pending
            await a.completes(("recv", 1))
            a.qp.post_send(Send("two", hello), Send("three", hello))
            await b.completes(("recv", 2))
            b.qp.post_send(Send("together", hello))
            assert b.qp.core.tx.pending
            await a.completes(("recv", 2))
            assert [wc.wr_id for wc in b.log if wc.opcode is WcOpcode.SEND] == ["lone", "together", "together"]

    run(main())


def test_a_lone_request_that_breaks_the_connection_ends_it_in_a_later_turn(run: Run) -> None:
    async def main() -> None:
        async with against_a_socket(REQUEST) as (end, sock):
            await asyncio.get_running_loop().sock_sendall(sock, untagged(0x0143, b"hello"))
            await end.completes(("recv", 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            end.qp.post_send(Send("lost", [memoryview(b"hello")]))
            assert not end.ends
            assert isinstance(await end.over(), ConnectionLost)
            assert end.log[-1].status is WcStatus.WR_FLUSH_ERR

    run(main())
