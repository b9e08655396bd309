"""Tests of target.connection: logins that go wrong, reinstatement, and connections without number."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from iser.errors import IserError, LoginError
from iser.login import Wishes, encode_text
from iser.pdu import (
    FINAL,
    PLAIN_HEADER,
    DataOut,
    LoginRequest,
    LoginResponse,
    NopIn,
    NopOut,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    encode,
)
from iser.pdu.const import LOGIN_TRANSIT
from iser.scsi.cdb import inquiry, write_blocks
from iser.scsi.inquiry import parse_designators
from tests.target.peer import INITIATOR, TARGET, Peer, config, disk, leave_nothing, served, serving, until

NAMES = [("InitiatorName", INITIATOR), ("TargetName", TARGET), ("SessionType", "Normal")]
OPERATIONAL = LOGIN_TRANSIT | 1 << 2 | 3


async def login_status(*requests: tuple[LoginRequest, list[tuple[str, str]]]) -> tuple[int, int]:
    """Class and detail of the last answer to these login requests; the target must close after a refusal."""
    async with serving() as (_, port):
        peer = Peer()
        await peer.connect(port)
        try:
            answer = LoginResponse()
            for bhs, pairs in requests:
                peer.datamover.send_control(Pdu(bhs, encode_text(pairs)))
                answer = await peer.expect(LoginResponse)
            if answer.status_class:
                assert isinstance(await peer.over(), EOFError)
            return answer.status_class, answer.status_detail
        finally:
            await peer.datamover.close()


GOOD = [*NAMES, ("RDMAExtensions", "Yes")]


@pytest.mark.parametrize(
    ("bhs", "pairs", "status"),
    [
        (LoginRequest(flags=OPERATIONAL), GOOD, (0, 0)),
        (LoginRequest(flags=OPERATIONAL), NAMES, (2, 7)),
        (LoginRequest(flags=OPERATIONAL), [GOOD[0], GOOD[2], GOOD[3]], (2, 7)),
        (LoginRequest(flags=OPERATIONAL), GOOD[1:], (2, 7)),
        (LoginRequest(flags=OPERATIONAL), [GOOD[0], ("TargetName", "iqn.2026-11.test:no"), *GOOD[2:]], (2, 3)),
        (LoginRequest(flags=OPERATIONAL), [*GOOD, ("InitiatorName", INITIATOR)], (2, 0)),
        (LoginRequest(flags=OPERATIONAL), [("InitiatorName", "me"), *GOOD[1:]], (2, 0)),
        (LoginRequest(flags=OPERATIONAL), [GOOD[0], GOOD[1], ("SessionType", "Odd"), GOOD[3]], (2, 9)),
        (LoginRequest(flags=LOGIN_TRANSIT | 3 << 2 | 1), GOOD, (2, 0)),
        (LoginRequest(flags=LOGIN_TRANSIT | 1 << 2 | 0), GOOD, (2, 0)),
        (LoginRequest(flags=LOGIN_TRANSIT | 2 << 2 | 3), GOOD, (2, 0)),
        (LoginRequest(flags=OPERATIONAL | 0x40), GOOD, (2, 0)),
        (LoginRequest(flags=OPERATIONAL, version_min=1, version_max=1), GOOD, (2, 5)),
        (LoginRequest(flags=OPERATIONAL, tsih=99), GOOD, (2, 0x0A)),
    ],
)
async def test_a_login_ends_with_its_status(
    bhs: LoginRequest, pairs: list[tuple[str, str]], status: tuple[int, int]
) -> None:
    assert await login_status((bhs, pairs)) == status


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("MaxBurstLength", "many", "Reject"),
        ("ErrorRecoveryLevel", "9", "Reject"),
        ("X-org.example", "1", "NotUnderstood"),
        ("HeaderDigest", "CRC32C", "Reject"),
    ],
)
async def test_a_key_that_cannot_be_agreed_on_is_answered(key: str, value: str, answer: str) -> None:
    async with serving() as (_, port):
        peer = Peer()
        await peer.connect(port)
        peer.datamover.send_control(Pdu(LoginRequest(flags=OPERATIONAL), encode_text([*GOOD, (key, value)])))
        pdu = await peer.receive()
        assert f"{key}={answer}".encode() in bytes(pdu.data).split(b"\0")
        await peer.datamover.close()


async def test_another_pdu_during_login_is_refused_and_ends_the_connection() -> None:
    async with serving() as (_, port):
        peer = Peer()
        await peer.connect(port)
        peer.datamover.send_control(Pdu(ScsiCommand()))
        answer = await peer.expect(LoginResponse)
        assert (answer.status_class, answer.status_detail) == (2, 0x0B)
        assert isinstance(await peer.over(), EOFError)
        await peer.datamover.close()


@pytest.mark.parametrize("message", [b"\x10" + bytes(30), PLAIN_HEADER + b"\x3e" + bytes(47), bytes(100)])
async def test_garbage_before_the_login_ends_the_connection(message: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, port):
        peer = Peer()
        await peer.connect(port)
        peer.send_raw(message)
        assert isinstance(await peer.over(), IserError | EOFError)
        await peer.datamover.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_flood_of_requests_that_does_not_wait_for_responses_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (server, port):
        peer = Peer()
        await peer.connect(port)
        for _ in range(30):
            peer.send_raw(PLAIN_HEADER + encode(Pdu(LoginRequest(flags=1 << 2), encode_text(NAMES))))
        assert isinstance(await peer.over(), IserError | EOFError)
        await peer.datamover.close()
        assert server.sessions == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_login_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (server, port):
        server._settings = type(server._settings)(login_timeout=0.25)
        for first in (False, True):
            peer = Peer()
            await peer.connect(port)
            if first:
                peer.datamover.send_control(Pdu(LoginRequest(flags=1 << 2), encode_text(NAMES)))
                await peer.expect(LoginResponse)
            assert isinstance(await asyncio.wait_for(peer.over(), 10), IserError | EOFError)
            await peer.datamover.close()


async def test_a_session_outlives_the_login_timeout() -> None:
    async with serving() as (server, port):
        server._settings = type(server._settings)(login_timeout=0.25)
        async with served(port) as peer:
            await peer.silence(0.35)
            peer.send(NopOut())
            await peer.expect(NopIn)


async def test_a_new_login_of_the_same_nexus_ends_the_old_session() -> None:
    slow = disk({"on": "write", "action": "delay", "count": 9, "seconds": 0.05})
    async with serving(config(target=slow)) as (server, port), served(port) as old:
        old.send_command(write_blocks(0, 1), write=bytes(512))
        async with served(port) as new:
            assert isinstance(await old.over(), EOFError)
            response, _ = await new.command(write_blocks(0, 1), write=bytes(512))
            assert response.status == 0
            await asyncio.sleep(0.06)
            assert server.sessions == 1


async def test_another_isid_is_another_session() -> None:
    async with serving() as (server, port), served(port) as one, served(port, isid=b"abcdef") as two:
        assert server.sessions == 2
        for peer in (one, two):
            peer.send(NopOut())
            await peer.expect(NopIn)


async def test_no_more_sessions_than_allowed() -> None:
    async with serving(config(limits={"max_sessions": 1})) as (_, port), served(port):
        peer = Peer()
        await peer.connect(port)
        with pytest.raises(LoginError) as caught:
            await peer.log_in(isid=b"abcdef")
        assert (caught.value.status_class, caught.value.status_detail) == (3, 2)
        await peer.datamover.close()
        async with served(port):
            pass  # the same nexus again takes the place of its old session


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_thousand_connects_and_drops_leave_nothing() -> None:
    """Most drop the bare TCP connection, some after MPA, some in or after the login."""
    async with serving() as (server, port):
        before = open_files()

        async def knock(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if number % 3:
                writer.write(b"MPA ID Req Frame"[: number % 17] if number % 3 == 1 else os.urandom(40))
            if number % 2:
                writer.transport.abort()
            else:
                writer.close()
            await writer.wait_closed()
            del reader

        for start in range(0, 960, 32):
            await asyncio.gather(*(knock(start + i) for i in range(32)), return_exceptions=True)
        for number in range(40):
            peer = Peer()
            await peer.connect(port)
            if number % 2:
                await peer.log_in(isid=bytes(5) + bytes([number]))
            peer.datamover.abort(LoginError("dropped", 0, 0))
            await peer.over()
            await peer.datamover.close()
        await until(lambda: not (server.sessions or server._connections) and open_files() <= before)
        assert (server.sessions, len(server._connections), open_files() <= before) == (
            0,
            0,
            True,
        )  # fewer: others had left some
        async with served(port) as peer:
            peer.send(NopOut())
            await peer.expect(NopIn)
    await leave_nothing()


async def test_unsolicited_data_has_the_receives_that_its_limits_promise() -> None:
    """Also where the negotiated PDU is small, a burst is long and the window full."""
    limits = {"initial_r2t": False, "first_burst_length": 8192, "queue_depth": 16}
    wishes = Wishes(initial_r2t=False, first_burst_length=8192, target_recv_data_segment_length=1024)
    async with serving(config(limits=limits)) as (_, port), served(port, wishes) as peer:
        for _ in range(16):
            itt = peer.send_command(write_blocks(0, 16), write=bytes(8192), unsolicited=8192)
            for part in range(8):
                flags = FINAL if part == 7 else 0
                bhs = DataOut(flags=flags, itt=itt, data_sn=part, buffer_offset=part * 1024)
                peer.datamover.send_control(Pdu(bhs, bytes(1024)))
        for _ in range(16):
            assert (await peer.expect(ScsiResponse)).status == 0


async def test_each_portal_group_is_a_target_port_of_its_own() -> None:
    portals = {name: {"listen": "iser://127.0.0.1:0", "group": group} for name, group in (("a", 1), ("b", 5), ("c", 5))}
    async with serving(config(portal=portals)) as (server, _):
        for portal in server.open_portals.values():
            async with served(portal.bound.port) as peer:
                groups, page = bytearray(64), bytearray(512)
                await peer.command(bytes.fromhex("a30a0000000000000040"), read=groups)
                assert bytes(groups[:20]).hex() == "00000010" + "0001000100000002" + "00000001" + "00000005"
                await peer.command(inquiry(512, 0x83), read=page)
                length = 4 + int.from_bytes(page[2:4], "big")
                port, name = [each for each in parse_designators(bytes(page[:length])) if each.association == 1][::2]
                group = portal.place.group
                assert (port.text, name.text) == (f"{group:08x}", f"{TARGET},t,0x{group:04x}")
