"""What both ends share: states, digests from the full-feature phase on, faults of ours, and the end."""

from __future__ import annotations

import asyncio
import socket

import pytest

from iser.datamover import DatamoverState
from iser.datamover.tcp.tx import MAX_BACKLOG
from iser.datamover.tcp.wire import digest
from iser.errors import ConnectionLost, LocalProtocolError, PduError, RemoteProtocolError
from iser.net import StreamTimes
from iser.pdu import NopIn, NopOut, Pdu, encode
from tests.datamover.tcp.ends import PARAMS, target


async def test_calls_out_of_order_are_refused() -> None:
    async with target() as (end, _, _wire):
        assert end.state is DatamoverState.ENABLED
        for call in (end.enable_datamover, end.deallocate_connection_resources):
            with pytest.raises(LocalProtocolError, match="state enabled; this needs allocated"):
                call()
        with pytest.raises(LocalProtocolError, match="needs login"):
            end.notice_key_values(PARAMS)
        with pytest.raises(LocalProtocolError, match="needs login"):
            end.allocate_connection_resources(1)


async def test_digests_hold_in_both_directions() -> None:
    async with target(header_digest="CRC32C", data_digest="CRC32C") as (end, user, wire):
        ping = encode(Pdu(NopOut(itt=1), b"data"))
        await wire.send(ping[:48] + digest(ping[:48]) + b"data" + digest(b"data"))
        assert (await user.until("pdus"))[0][1] == b"data"
        end.send_control(Pdu(NopIn(itt=1), b"back"))
        pong = encode(Pdu(NopIn(itt=1), b"back"))
        assert await wire._exactly(60) == pong[:48] + digest(pong[:48]) + b"back" + digest(b"back")


async def test_a_wrong_header_digest_closes_without_a_word() -> None:
    async with target(header_digest="CRC32C") as (_, user, wire):
        await wire.send(encode(Pdu(NopOut())) + b"oops")
        assert await wire.gone()
        assert "header digest" in await user.refused()
        assert user.malformed == []


async def test_what_cannot_be_parsed_is_handed_up_and_the_connection_lives() -> None:
    async with target() as (_, user, wire):
        await wire.send(b"\x1e" + bytes(47), Pdu(NopOut()))
        assert isinstance((await user.until("malformed"))[0], PduError)
        await user.until("pdus")


async def test_an_error_of_the_layer_above_ends_the_connection_behind_what_it_said() -> None:
    async with target() as (end, user, wire):
        user.raises = RemoteProtocolError("no way")
        end.send_control(Pdu(NopIn(itt=9)))
        await wire.send(Pdu(NopOut()), Pdu(NopOut()))
        assert (await wire.receive())[0].itt == 9
        assert await user.refused() == "no way"
        assert len(user.pdus) == 1


async def test_a_fault_of_ours_ends_one_connection_with_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    async with target() as (_, user, wire):
        user.raises = ZeroDivisionError("ours")
        await wire.send(Pdu(NopOut()))
        (reason,) = await user.until("ends")
        assert isinstance(reason, LocalProtocolError)
        assert "ZeroDivisionError" in caplog.text


async def test_the_peers_orderly_end_has_no_reason() -> None:
    async with target() as (_, user, wire):
        wire.sock.shutdown(socket.SHUT_WR)
        assert await user.until("ends") == [None]


async def test_an_end_inside_a_pdu_is_a_loss() -> None:
    async with target() as (_, user, wire):
        await wire.send(bytes(20))
        wire.sock.shutdown(socket.SHUT_WR)
        assert isinstance((await user.until("ends"))[0], ConnectionLost)


async def test_abort_tells_why() -> None:
    async with target() as (end, user, _):
        why = ConnectionLost("because")
        end.abort(why)
        assert await user.until("ends") == [why]


async def test_terminate_sends_what_is_queued_and_tells_nobody() -> None:
    async with target() as (end, user, wire):
        end.send_control(Pdu(NopIn(itt=9)))
        end.connection_terminate()
        end.connection_terminate()
        assert (await wire.receive())[0].itt == 9
        assert await wire.gone()
        wire.sock.close()
        await end.close()
        assert user.ends == []


async def test_a_peer_that_asks_and_never_reads_fills_no_memory_and_is_left() -> None:
    async with target(StreamTimes(stall=0.3, linger=0.05)) as (end, user, wire):
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        async def flood() -> None:
            answered = 0
            while not user.ends:
                pings = len(user.pdus)
                for _ in range(pings - answered):
                    end.send_control(Pdu(NopIn(itt=1), bytes(4096)))
                answered = pings
                await asyncio.sleep(0)

        answers = asyncio.create_task(flood())
        pings = encode(Pdu(NopOut(itt=1), bytes(8))) * 1000
        with pytest.raises((TimeoutError, ConnectionResetError, BrokenPipeError)):
            await asyncio.wait_for(wire.send(*[pings] * 300), 3)
        (reason,) = await user.until("ends")
        await answers
        assert "has not read" in str(reason)
        assert len(user.pdus) < MAX_BACKLOG + 40_000
