"""Tests of target.session: order, windows, and the answer to every kind of PDU."""

from __future__ import annotations

import logging

import pytest

from iser.errors import IserError
from iser.login import Wishes
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    IMMEDIATE,
    PLAIN_HEADER,
    RESERVED_TAG,
    RESPONSE_UNDERFLOW,
    RSV,
    WSV,
    DataOut,
    IserHeader,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
    build_header,
    decode_bhs,
    encode,
    sn_le,
)
from iser.pdu.const import LogoutReason, LogoutResponseCode, RejectReason, TaskManagementFunction
from iser.scsi.cdb import read_blocks, write_blocks
from target.session import MAX_DRAINING, MAX_IMMEDIATE
from tests.target.peer import TARGET, Peer, config, disk, logged_in, served, serving

SLOW_WRITES = {"on": "write", "action": "delay", "count": 1000, "seconds": 0.1}
PING = NopOut(opcode=IMMEDIATE, ttt=RESERVED_TAG)


async def ping(peer: Peer) -> NopIn:
    """Prove that the session lives, in order."""
    itt = peer.send(NopOut())
    answer = await peer.expect(NopIn)
    assert answer.itt == itt
    return answer


async def rejected(peer: Peer, reason: RejectReason) -> bytes:
    """The next PDU is a Reject for ``reason``; returns the header that it carries."""
    pdu = await peer.receive()
    assert isinstance(pdu.bhs, Reject), pdu.bhs
    assert pdu.bhs.reason == reason
    return bytes(pdu.data)


# Order


async def test_a_pdu_that_came_early_waits_for_its_turn() -> None:
    async with logged_in() as peer:
        first = peer.cmd_sn
        for ahead in (2, 1, 0):
            peer.cmd_sn = first + ahead
            peer.send(NopOut(), bytes([ahead]))
        assert [bytes((await peer.receive()).data) for _ in range(3)] == [b"\0", b"\1", b"\2"]
        peer.cmd_sn = first + 3
        assert (await ping(peer)).exp_cmd_sn == first + 4


async def test_a_command_that_came_early_keeps_its_data_and_its_tags() -> None:
    async with logged_in() as peer:
        first = peer.cmd_sn
        peer.cmd_sn = first + 1
        there = bytearray(512)
        peer.send_command(read_blocks(0, 1), read=there)
        peer.cmd_sn = first
        peer.send_command(write_blocks(0, 1), write=b"w" * 512, immediate=512)
        assert [(await peer.expect(ScsiResponse)).status for _ in range(2)] == [0, 0]
        assert there == b"w" * 512


async def test_what_is_outside_the_window_or_came_twice_is_dropped() -> None:
    async with logged_in(config(limits={"queue_depth": 4})) as peer:
        first = peer.cmd_sn
        for sn in (first - 1, first + 4, first + 0x80000000, first + 2, first + 2):
            peer.cmd_sn = sn & 0xFFFFFFFF
            peer.send(NopOut())
        await peer.silence()
        peer.cmd_sn = first
        await ping(peer)
        await ping(peer)
        assert (await peer.expect(NopIn)).exp_cmd_sn == first + 3
        await peer.silence()


async def test_no_command_runs_beyond_the_window() -> None:
    async with logged_in(config(limits={"queue_depth": 2}, target=disk(SLOW_WRITES))) as peer:
        for _ in range(2):
            peer.send_command(write_blocks(0, 1), write=bytes(512))
        beyond = peer.cmd_sn
        peer.send_command(write_blocks(0, 1), write=bytes(512))
        for _ in range(2):
            assert sn_le(beyond, (await peer.expect(ScsiResponse)).max_cmd_sn)
        await peer.silence(0.15)
        peer.cmd_sn = beyond
        await peer.command(write_blocks(0, 1), write=bytes(512))


async def test_a_dropped_command_leaves_no_tags_to_a_later_one_of_its_name() -> None:
    async with logged_in(config(limits={"queue_depth": 4})) as peer:
        first = peer.cmd_sn
        wrong, right = bytearray(512), bytearray(512)
        peer.cmd_sn = first - 1
        dropped = peer.send_command(read_blocks(0, 1), read=wrong)
        await ping_immediate(peer)
        peer.datamover.deallocate_task_resources(dropped)
        peer.cmd_sn, peer.itt = first, dropped - 1
        await peer.command(write_blocks(0, 1), write=b"x" * 512, immediate=512)
        peer.itt = dropped - 1
        response, _ = await peer.command(read_blocks(0, 1), read=right)
        assert response.status == 0
        assert right == b"x" * 512


async def ping_immediate(peer: Peer) -> None:
    itt = peer.send(PING)
    assert (await peer.expect(NopIn)).itt == itt


async def test_a_rejected_command_does_not_use_its_number() -> None:
    """RFC 7143 section 7.3: the initiator closes the gap with another PDU of that number."""
    async with logged_in() as peer:
        number = peer.cmd_sn
        peer.send(ScsiCommand(flags=FINAL | COMMAND_READ | COMMAND_WRITE))
        await rejected(peer, RejectReason.INVALID_PDU_FIELD)
        await peer.silence(0)
        peer.cmd_sn = number
        assert (await ping(peer)).exp_cmd_sn == number + 1


# What is refused


async def test_a_duplicate_task_tag_is_refused_and_the_first_task_goes_on() -> None:
    async with logged_in(config(target=disk(SLOW_WRITES))) as peer:
        running = peer.send_command(write_blocks(0, 1), write=b"1" * 512)
        number, peer.itt = peer.cmd_sn, running - 1
        peer.send(ScsiCommand(cdb=bytes(16)))
        header = await rejected(peer, RejectReason.TASK_IN_PROGRESS)
        assert decode_bhs(header).itt == running
        assert (await peer.expect(ScsiResponse)).itt == running
        peer.cmd_sn = number
        there = bytearray(512)
        await peer.command(read_blocks(0, 1), read=there)
        assert there == b"1" * 512


async def test_the_reserved_task_tag_is_no_task() -> None:
    async with logged_in() as peer:
        peer.itt = RESERVED_TAG - 1
        peer.send(ScsiCommand())
        await rejected(peer, RejectReason.TASK_IN_PROGRESS)


async def test_immediate_commands_have_a_limit_of_their_own() -> None:
    async with logged_in(config(target=disk(SLOW_WRITES))) as peer:
        for _ in range(MAX_IMMEDIATE):
            numbered = peer.number(command_of(write_blocks(0, 1), 512)._replace(opcode=0x01 | IMMEDIATE))
            peer.datamover.send_control(Pdu(numbered, bytes(512)))
        peer.send(ScsiCommand(opcode=0x01 | IMMEDIATE))
        await rejected(peer, RejectReason.TOO_MANY_IMMEDIATE_COMMANDS)
        for _ in range(MAX_IMMEDIATE):
            assert (await peer.expect(ScsiResponse)).status == 0
        peer.send(ScsiCommand(opcode=0x01 | IMMEDIATE))
        assert (await peer.expect(ScsiResponse)).status == 0
        await ping(peer)


def command_of(cdb: bytes, edtl: int, flags: int = FINAL | COMMAND_WRITE) -> ScsiCommand:
    return ScsiCommand(flags=flags, edtl=edtl, cdb=cdb.ljust(16, b"\0"))


@pytest.mark.parametrize("flag", [COMMAND_READ, COMMAND_WRITE])
async def test_a_command_that_needs_a_stag_and_has_none_is_rejected(
    flag: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in() as peer:
        cdb = read_blocks(0, 1) if flag == COMMAND_READ else write_blocks(0, 1)
        number = peer.cmd_sn
        peer.send(command_of(cdb, 512, FINAL | flag))
        await rejected(peer, RejectReason.PROTOCOL_ERROR)
        peer.cmd_sn = number
        await ping(peer)
    assert_no_trace(caplog)


def assert_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("bhs", "reason"),
    [
        (SnackRequest(), RejectReason.PROTOCOL_ERROR),
        (ScsiResponse(), RejectReason.PROTOCOL_ERROR),
        (ScsiCommand(flags=FINAL, itt=5, edtl=512), RejectReason.INVALID_PDU_FIELD),
        (ScsiCommand(flags=FINAL | COMMAND_READ | COMMAND_WRITE, itt=5, edtl=512), RejectReason.INVALID_PDU_FIELD),
        (ScsiCommand(flags=COMMAND_WRITE, itt=5, edtl=512), RejectReason.PROTOCOL_ERROR),
        (LogoutRequest(flags=FINAL | 9), RejectReason.INVALID_PDU_FIELD),
        (DataOut(itt=77, flags=FINAL), RejectReason.PROTOCOL_ERROR),
        (TextRequest(opcode=4 | IMMEDIATE, flags=FINAL, ttt=5), RejectReason.INVALID_PDU_FIELD),
    ],
)
async def test_what_is_not_allowed_is_rejected_with_its_header(
    bhs: ScsiCommand, reason: RejectReason, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in() as peer:
        wire = encode(Pdu(bhs._replace(cmd_sn=peer.cmd_sn) if hasattr(bhs, "cmd_sn") else bhs))
        peer.send_raw(PLAIN_HEADER + wire)
        assert await rejected(peer, reason) == wire[:48]
        await ping(peer)
    assert_no_trace(caplog)


@pytest.mark.parametrize(
    "message",
    [
        encode(Pdu(PING))[:30],
        encode(Pdu(PING)) + bytes(4),
        encode(Pdu(PING, bytes(100)))[:-8],
        b"\x40\x80\0\0\x01" + bytes(43) + bytes(4),
        encode(Pdu(PING, bytes(8196))),
    ],
    ids=["truncated header", "too long", "truncated data", "AHS on a ping", "too much data"],
)
async def test_a_message_whose_lengths_are_wrong_ends_the_session(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in() as peer:
        peer.send_raw(PLAIN_HEADER + message)
        assert isinstance(await peer.over(), IserError | EOFError)
    assert_no_trace(caplog)


async def test_an_unknown_opcode_is_rejected() -> None:
    message = b"\x1f" + bytes(47)
    async with logged_in() as peer:
        peer.send_raw(PLAIN_HEADER + message)
        assert await rejected(peer, RejectReason.COMMAND_NOT_SUPPORTED) == message[:48]
        await ping(peer)


@pytest.mark.parametrize("message", [b"", b"\x10", b"\x20" + bytes(27), b"\xf0" + bytes(75)])
async def test_a_message_without_an_iser_header_ends_the_connection(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in() as peer:
        peer.send_raw(message)
        assert isinstance(await peer.over(), IserError | EOFError)
    assert_no_trace(caplog)


async def test_an_oversized_message_ends_the_connection() -> None:
    async with logged_in() as peer:
        peer.send_raw(PLAIN_HEADER + encode(Pdu(PING, bytes(16384))))
        assert isinstance(await peer.over(), IserError)


@pytest.mark.parametrize(("tag", "flag"), [(RSV, COMMAND_READ), (WSV, COMMAND_WRITE)])
async def test_a_buffer_that_runs_over_the_end_of_the_address_space_ends_the_connection(
    tag: int, flag: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in() as peer:
        top = 0xFFFFFFFFFFFFFF00
        cdb = read_blocks(0, 200) if flag == COMMAND_READ else write_blocks(0, 200)
        tags = (0x1234, top) if tag == WSV else (0, 0)
        header = build_header(IserHeader(0x10 | tag, *tags, *((0, 0) if tag == WSV else (0x1234, top))))
        peer.send_raw(header + encode(Pdu(peer.number(command_of(cdb, 102400, FINAL | flag)))))
        assert isinstance(await peer.over(), IserError | EOFError)
    assert_no_trace(caplog)


# Small services


@pytest.mark.parametrize("length", [0, 1, 128, 129, 8192])
async def test_a_ping_is_echoed(length: int) -> None:
    async with logged_in() as peer:
        for opcode in (0, IMMEDIATE):
            data = bytes(range(256)) * 32
            itt = peer.send(NopOut(opcode=opcode), data[:length])
            pdu = await peer.receive()
            assert (pdu.bhs.itt, bytes(pdu.data)) == (itt, data[:length])
            assert isinstance(pdu.bhs, NopIn)
            assert pdu.bhs.ttt == RESERVED_TAG


async def test_a_ping_that_wants_no_answer_gets_none() -> None:
    async with logged_in() as peer:
        peer.datamover.send_control(Pdu(NopOut(opcode=IMMEDIATE, itt=RESERVED_TAG, cmd_sn=peer.cmd_sn), b"hello"))
        await peer.silence()
        await ping(peer)


async def test_status_numbers_count_every_answer() -> None:
    async with logged_in() as peer:
        numbers = [(await ping(peer)).stat_sn]
        numbers.append((await peer.command(bytes(6)))[0].stat_sn)
        peer.datamover.send_control(Pdu(SnackRequest()))
        numbers.append((await peer.expect(Reject)).stat_sn)
        assert numbers == [numbers[0] + i for i in range(3)]


@pytest.mark.parametrize(
    ("reason", "cid", "code"),
    [
        (LogoutReason.CLOSE_SESSION, 9, LogoutResponseCode.CLOSED),
        (LogoutReason.CLOSE_CONNECTION, 1, LogoutResponseCode.CLOSED),
        (LogoutReason.CLOSE_CONNECTION, 9, LogoutResponseCode.CID_NOT_FOUND),
        (LogoutReason.REMOVE_FOR_RECOVERY, 0, LogoutResponseCode.RECOVERY_NOT_SUPPORTED),
    ],
)
@pytest.mark.parametrize("opcode", [0x06, 0x06 | IMMEDIATE])
async def test_logout(reason: int, cid: int, code: int, opcode: int) -> None:
    async with logged_in() as peer:
        itt = peer.send(LogoutRequest(opcode=opcode, flags=FINAL | reason, cid=cid))
        answer = await peer.expect(LogoutResponse)
        assert (answer.itt, answer.response) == (itt, code)
        if code == LogoutResponseCode.CLOSED:
            assert isinstance(await peer.over(), EOFError)
        else:
            await ping(peer)


async def test_a_logout_ends_what_waits_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    async with logged_in(config(target=disk(SLOW_WRITES))) as peer:
        peer.send_command(write_blocks(0, 1), write=bytes(512))
        first = peer.cmd_sn
        peer.cmd_sn = first + 1
        peer.send(NopOut())
        peer.send_command(read_blocks(0, 1), read=bytearray(512))
        peer.cmd_sn = first
        peer.send(LogoutRequest(opcode=0x06))
        await peer.expect(LogoutResponse)
        assert isinstance(await peer.over(), EOFError)
    assert_no_trace(caplog)


async def test_text_in_a_normal_session_fits_the_small_buffers_of_the_kernel() -> None:
    listen = {f"p{n}": {"listen": "iser://127.0.0.1:0"} for n in range(20)}
    async with logged_in(config(portal=listen)) as peer:
        text, ttt, itt = b"", RESERVED_TAG, 0x500
        data = b"SendTargets=\0"
        while True:
            bhs = TextRequest(flags=FINAL, itt=itt, ttt=ttt, cmd_sn=peer.cmd_sn)
            peer.cmd_sn += 1
            peer.datamover.send_control(Pdu(bhs, data))
            pdu = await peer.receive()
            assert isinstance(pdu.bhs, TextResponse)
            assert len(pdu.data) <= 128
            text += pdu.data
            data, ttt = b"", pdu.bhs.ttt
            if pdu.bhs.flags & FINAL:
                break
        assert text.startswith(f"TargetName={TARGET}\0TargetAddress=127.0.0.1:".encode())
        assert text.count(b"TargetAddress=") == 20


async def test_a_discovery_session_lists_many_targets_and_does_no_more() -> None:
    targets = tuple(entry for n in range(200) for entry in disk(name=f"{TARGET}{n}", size="4k"))
    async with serving(config(target=targets)) as (_, port):
        peer = Peer()
        await peer.connect(port)
        wishes = Wishes(max_recv_data_segment_length=8192)
        await peer.log_in(wishes, discovery=True, target_name="")
        for bhs in (ScsiCommand(), TaskManagementRequest(flags=FINAL | 1)):
            number = peer.cmd_sn
            peer.send(bhs)
            await rejected(peer, RejectReason.PROTOCOL_ERROR)
            peer.cmd_sn = number
        text, ttt, data = b"", RESERVED_TAG, b"SendTargets=All\0"
        parts = 0
        while True:
            peer.datamover.send_control(Pdu(TextRequest(flags=FINAL, itt=9, ttt=ttt, cmd_sn=peer.cmd_sn), data))
            peer.cmd_sn += 1
            pdu = await peer.receive()
            assert isinstance(pdu.bhs, TextResponse)
            text, data, ttt, parts = text + pdu.data, b"", pdu.bhs.ttt, parts + 1
            if pdu.bhs.flags & FINAL:
                break
        assert (text.count(b"TargetName="), parts > 1) == (200, True)
        await ping(peer)
        await peer.datamover.close()


# Unsolicited data

UNASKED = Wishes(initial_r2t=False, immediate_data=True, first_burst_length=16384)
NO_R2T = {"initial_r2t": False, "first_burst_length": 16384}


def data_out(itt: int, sn: int, offset: int, data: bytes, *, final: bool = False) -> Pdu:
    return Pdu(DataOut(flags=FINAL if final else 0, itt=itt, data_sn=sn, buffer_offset=offset), data)


async def test_immediate_then_unsolicited_then_solicited_data() -> None:
    async with logged_in(config(limits=NO_R2T), UNASKED) as peer:
        data = bytes(i % 251 for i in range(32768))
        itt = peer.send_command(write_blocks(0, 64), write=data, immediate=4096, unsolicited=16384)
        peer.datamover.send_control(data_out(itt, 0, 4096, data[4096:12288]))
        peer.datamover.send_control(data_out(itt, 1, 12288, data[12288:16384], final=True))
        assert (await peer.expect(ScsiResponse)).status == 0
        there = bytearray(32768)
        await peer.command(read_blocks(0, 64), read=there)
        assert there == data


@pytest.mark.parametrize(
    "pdus",
    [
        [(0, 512, 512, True)],  # not where it belongs
        [(1, 0, 512, True)],  # not in order
        [(0, 0, 512, True)],  # ends early
        [(0, 0, 8192, False), (1, 8192, 8192, False)],  # does not end
        [(0, 0, 8192, False), (1, 8192, 8192, True), (2, 16384, 512, True)],  # too long
        [(0, 0, 8192, False), (1, 8192, 8192, True), (2, 16384, 0, True)],  # an empty one too many
    ],
)
async def test_unsolicited_data_out_of_place_ends_the_session(
    pdus: list[tuple[int, int, int, bool]], caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(limits=NO_R2T, target=disk(SLOW_WRITES))
    async with logged_in(settings, UNASKED) as peer:
        itt = peer.send_command(write_blocks(0, 64), write=bytes(32768), unsolicited=16384)
        for sn, offset, length, final in pdus:
            peer.datamover.send_control(data_out(itt, sn, offset, bytes(length), final=final))
        await rejected(peer, RejectReason.PROTOCOL_ERROR)
        assert isinstance(await peer.over(), IserError | EOFError)
    assert_no_trace(caplog)


async def test_data_of_a_command_that_failed_already_is_drained_and_no_more() -> None:
    async with logged_in(config(limits=NO_R2T), UNASKED) as peer:
        write, itt = bytes(16384), 0
        for _ in range(2):
            itt = peer.send_command(write_blocks(1 << 20, 32), write=write, unsolicited=16384)
            response = await peer.expect(ScsiResponse)
            assert response.status == 2
            assert (response.flags & RESPONSE_UNDERFLOW, response.residual) == (RESPONSE_UNDERFLOW, 16384)
            peer.datamover.send_control(data_out(itt, 0, 0, write[:8192]))
            peer.datamover.send_control(data_out(itt, 1, 8192, write[8192:], final=True))
            await ping(peer)
        peer.datamover.send_control(data_out(itt, 2, 0, b"more"))
        await rejected(peer, RejectReason.PROTOCOL_ERROR)
        await ping(peer)


async def test_the_commands_that_are_drained_have_a_limit() -> None:
    async with logged_in(config(limits=NO_R2T), UNASKED) as peer:
        tags = []
        for _ in range(MAX_DRAINING + 1):
            tags.append(peer.send_command(write_blocks(1 << 20, 1), write=bytes(512), unsolicited=512))
            await peer.expect(ScsiResponse)
        peer.datamover.send_control(data_out(tags[0], 0, 0, bytes(512), final=True))
        await rejected(peer, RejectReason.PROTOCOL_ERROR)
        peer.datamover.send_control(data_out(tags[1], 0, 0, bytes(512), final=True))
        await ping(peer)


async def test_a_full_window_of_unsolicited_data_finds_receives() -> None:
    limits = {"initial_r2t": False, "first_burst_length": 65536, "queue_depth": 32}
    async with logged_in(config(limits=limits), Wishes(initial_r2t=False, first_burst_length=65536)) as peer:
        data = bytes(65536)
        for _ in range(32):
            itt = peer.send_command(write_blocks(0, 128), write=data, unsolicited=65536)
            for part in range(8):
                at = part * 8192
                peer.datamover.send_control(data_out(itt, part, at, data[at : at + 8192], final=part == 7))
        for _ in range(32):
            assert (await peer.expect(ScsiResponse)).status == 0


# Task management that fills a gap


async def test_aborting_a_command_that_never_came_fills_its_number() -> None:
    """RFC 7143 section 11.6.1, case b."""
    async with logged_in() as peer:
        missing = peer.cmd_sn
        peer.cmd_sn += 1
        peer.send(NopOut())
        await peer.silence()
        bhs = TaskManagementRequest(
            opcode=0x02 | IMMEDIATE,
            flags=FINAL | TaskManagementFunction.ABORT_TASK,
            referenced_task_tag=0x77,
            ref_cmd_sn=missing,
        )
        peer.send(bhs)
        kinds = [type((await peer.receive()).bhs) for _ in range(2)]
        assert set(kinds) == {NopIn, TaskManagementResponse}
        await ping(peer)


async def test_two_sessions_do_not_mix() -> None:
    async with serving() as (_, port), served(port) as one, served(port, isid=bytes(5) + b"\2") as two:
        a = one.send_command(write_blocks(0, 1), write=b"a" * 512)
        b = two.send_command(write_blocks(1, 1), write=b"b" * 512)
        assert (await one.expect(ScsiResponse)).itt == a
        assert (await two.expect(ScsiResponse)).itt == b
