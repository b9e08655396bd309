"""Tests of iser.datamover.endpoint: states, control PDUs, and every way a connection ends."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.datamover import DatamoverState, IserTarget
from iser.datamover.endpoint import EXTRA_RECEIVES, MAX_CONTROL_DATA
from iser.errors import ConnectionLost, IserError, LocalProtocolError, PduError, RemoteProtocolError
from iser.login import NegotiatedParameters
from iser.pdu import PLAIN_HEADER, NopIn, NopOut, Pdu, decode, encode
from iser.pdu.bhs import BHS_TYPES
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from tests.datamover.pair import DEPTH, User, connected, connected_with

PARAMS = NegotiatedParameters()


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8191, MAX_CONTROL_DATA])
async def test_control_pdus_arrive_whole_both_ways(length: int) -> None:
    async with connected() as pair:
        data = bytes(i % 253 for i in range(length))
        pair.initiator.send_control(Pdu(NopOut(itt=7), data))
        there = await pair.below.next()
        assert (there.bhs.itt, there.data) == (7, data)
        pair.target.send_control(Pdu(NopIn(itt=7), data))
        assert (await pair.above.next()).data == data


async def test_a_whole_window_may_come_at_once() -> None:
    async with connected() as pair:
        for itt in range(DEPTH + EXTRA_RECEIVES):
            pair.initiator.send_control(Pdu(NopOut(itt=itt), bytes(8192)))
        assert [(await pair.below.next()).bhs.itt for _ in range(40)] == list(range(40))


async def test_states_are_taken_in_order() -> None:
    async with connected_with() as pair:
        end = pair.target
        with pytest.raises(LocalProtocolError, match="state login; this needs allocated"):
            end.enable_datamover()
        with pytest.raises(LocalProtocolError, match="state login"):
            end.deallocate_connection_resources()
        end.notice_key_values(PARAMS)
        end.allocate_connection_resources(DEPTH)
        end.allocate_connection_resources(DEPTH)
        end.deallocate_connection_resources()
        assert end.state is DatamoverState.LOGIN
        with pytest.raises(LocalProtocolError):
            end.enable_datamover()


async def test_key_values_come_before_the_full_feature_phase() -> None:
    async with connected() as pair:
        assert pair.target.state is DatamoverState.ENABLED
        with pytest.raises(LocalProtocolError, match="state enabled"):
            pair.target.notice_key_values(PARAMS)


async def test_terminate_sends_what_is_queued_and_tells_only_the_other_side() -> None:
    async with connected() as pair:
        for itt in range(5):
            pair.initiator.send_control(Pdu(NopOut(itt=itt)))
        pair.initiator.connection_terminate()
        pair.initiator.connection_terminate()
        assert [(await pair.below.next()).bhs.itt for _ in range(5)] == [0, 1, 2, 3, 4]
        await pair.below.ended.wait()
        with pytest.raises(LocalProtocolError, match="the connection has ended"):
            pair.initiator.send_control(Pdu(NopOut()))
        assert pair.below.ends == [None]
        assert pair.above.ends == []


async def test_abort_tells_its_reason_once() -> None:
    async with connected() as pair:
        pair.target.abort(ConnectionLost("enough"))
        await pair.below.ended.wait()
        await pair.above.ended.wait()
        await pair.target.close()
        await pair.target.close()
        assert [str(end) for end in pair.below.ends] == ["enough"]
        assert len(pair.above.ends) == 1


async def test_close_is_legal_in_every_state() -> None:
    async with connected_with() as pair:
        await pair.target.close()
        await pair.above.ended.wait()


async def test_a_malformed_pdu_is_handed_up_with_its_header() -> None:
    async with connected() as pair:
        wire = encode(Pdu(NopOut(), b"data"))[:-2]
        pair.initiator._send(PLAIN_HEADER + wire)
        await pair.below.next()
        error, bhs = pair.below.malformed[0]
        assert isinstance(error, PduError)
        assert bhs == wire[:48]
        pair.initiator.send_control(Pdu(NopOut(itt=3)))
        assert (await pair.below.next()).bhs.itt == 3


@pytest.mark.parametrize("message", [b"", b"\x10", b"\x20" + bytes(27), b"\x30" + bytes(27), b"\x90" + bytes(75)])
async def test_a_message_that_is_not_iser_ends_the_connection(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as pair:
        pair.initiator._send(message)
        await pair.below.ended.wait()
        assert isinstance(pair.below.ends[0], RemoteProtocolError)
    assert errors(caplog) == []


async def test_nothing_is_handed_up_after_a_protocol_error() -> None:
    async with connected() as pair:

        def refuse(pdu: Pdu) -> None:
            raise RemoteProtocolError("not this")

        pair.below.react = refuse
        for itt in range(3):
            pair.initiator.send_control(Pdu(NopOut(itt=itt)))
        await pair.below.ended.wait()
        assert pair.below.pdus.qsize() == 1
        assert [str(end) for end in pair.below.ends] == ["not this"]


async def test_a_fault_above_ends_this_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as pair:

        def stumble(pdu: Pdu) -> None:
            raise ZeroDivisionError

        pair.below.react = stumble
        pair.initiator.send_control(Pdu(NopOut()))
        await pair.below.ended.wait()
        assert isinstance(pair.below.ends[0], LocalProtocolError)
    assert ["internal error" in record.getMessage() for record in errors(caplog)] == [True]


async def test_a_peer_that_does_not_read_cannot_make_us_queue_without_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The sends of a target are bounded by its window; one line says why the connection ended."""
    provider = SoftIwarp(SoftIwarpOptions(socket_buffer=8192))
    async with connected(provider=provider) as pair:
        pair.initiator.send_control(Pdu(NopOut(itt=1)))
        await pair.below.next()
        for itt in range(10 * (DEPTH + EXTRA_RECEIVES)):
            pair.target.send_control(Pdu(NopIn(itt=itt), bytes(8192)))
        await pair.below.ended.wait()
        assert isinstance(pair.below.ends[0], IserError)
        assert "does not take" in str(pair.below.ends[0])
    assert errors(caplog) == []


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*sorted(BHS_TYPES), 0x0F]),
    st.sampled_from([0, 0, 0, 1, 4, 5, 0x01000000, 0xFFFFFFFF]),
    st.sampled_from([0, 0, 0, 1, 4, 8]),
    st.binary(min_size=48, max_size=48),
)
def test_a_pdu_is_what_its_bytes_say_with_data_or_without(opcode: int, lengths: int, extra: int, rest: bytes) -> None:
    """The way of PDUs that are nothing but a BHS makes no difference."""
    wire = bytes((opcode,)) + rest[1:4] + lengths.to_bytes(4, "big") + rest[8:] + bytes(extra)
    user = User()
    IserTarget(user)._receive(memoryview(PLAIN_HEADER + wire), 0)
    found: object = [(str(error), error.reason, bhs) for error, bhs in user.malformed] or user.pdus.get_nowait()
    expected: object
    try:
        pdu = decode(wire, MAX_CONTROL_DATA)
        expected = pdu._replace(data=bytes(pdu.data))
    except PduError as error:
        expected = [(str(error), error.reason, wire[:48])]
    assert found == expected
