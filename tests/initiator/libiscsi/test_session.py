"""The wrapper against our own target, over TCP."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from initiator import libiscsi
from initiator.libiscsi import LibiscsiSession
from initiator.lun import Lun
from initiator.shapes import Arena, layout
from iser.errors import CommandTimeout, ConnectionFailed, ConnectionLost, ScsiError, UsageError
from iser.login import TargetAddress
from iser.pdu import FINAL, RESERVED_TAG, DataIn, Pdu, TaskManagementRequest
from iser.scsi import cdb
from iser.sg import SgClass
from target.config import Config
from target.server import TargetServer
from target.session import Session
from tests.target.peer import TARGET, config, disk, redirecting, until

pytestmark = pytest.mark.skipif(bool(libiscsi.available()), reason=libiscsi.available())

SLOW = {"on": "write", "action": "delay", "count": 1000, "seconds": 0.2}
BLOCK = 512


def tcp(*faults: dict[str, Any], **changes: Any) -> Config:
    """One target over plain iSCSI."""
    return config(portal={"p": {"listen": "iscsi://127.0.0.1:0"}}, target=disk(*faults), **changes)


@asynccontextmanager
async def served(settings: Config | None = None) -> AsyncIterator[tuple[TargetServer, str]]:
    """A target in this process and the URL of its LUN."""
    server = await TargetServer.start(settings or tcp())
    try:
        yield server, f"iscsi://127.0.0.1:{server.addresses[0][1]}/{TARGET}/0"
    finally:
        await server.close(drain=1)


@asynccontextmanager
async def opened(settings: Config | None = None, **options: Any) -> AsyncIterator[Lun]:
    """A LUN through libiscsi, which must have let go of everything at the end."""
    async with served(settings) as (server, url):
        async with await libiscsi.connect(url, **options) as lun:
            yield lun
        assert session_of(lun).outstanding == 0
        await until(lambda: server.sessions == 0)
        assert server.sessions == 0


def session_of(lun: Lun) -> LibiscsiSession:
    session: Any = lun.session
    assert isinstance(session, LibiscsiSession)
    return session


async def test_what_the_lun_is() -> None:
    async with opened() as lun:
        assert (lun.capacity.blocks, lun.capacity.block_size) == (2048, BLOCK)
        assert (await lun.inquiry()).vendor == "ISER-PY"
        assert 0x83 in await lun.vpd_pages()
        await lun.flush()


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("kind", list(SgClass))
async def test_lists_of_each_class_come_back_byte_for_byte(kind: SgClass, immediate: bool) -> None:
    async with opened(immediate_data=immediate) as lun:
        source, sink = (Arena(layout(kind, 128 << 10, random.Random(seed))) for seed in (1, 2))
        source.fill(os.urandom(8191))
        sink.fill(b"\xa5")
        await lun.write(8, source.views)
        await lun.read_into(8, sink.views)
        assert b"".join(sink.views) == b"".join(source.views)
        around = Arena(sink.elements)
        around.fill(b"\xa5")
        for view, ours in zip(around.views, sink.views, strict=True):
            view[:] = ours
        assert around.memory == sink.memory


async def test_many_at_once() -> None:
    async with opened(queue_depth=16) as lun:
        data = [os.urandom(4096) for _ in range(100)]
        await asyncio.gather(*(lun.write(n * 8, piece) for n, piece in enumerate(data)))
        assert await asyncio.gather(*(lun.read(n * 8, 8) for n in range(100))) == data


async def test_header_digests() -> None:
    async with opened(header_digest=True) as lun:
        await lun.write(0, b"d" * 65536)
        assert await lun.read(0, 128) == b"d" * 65536


async def test_a_bad_status_is_our_error_with_its_sense() -> None:
    async with opened() as lun:
        with pytest.raises(ScsiError) as caught:
            await lun.read(2048, 1)
        assert (caught.value.sense_key, caught.value.asc) == (5, 0x21)
        result = await lun.execute(bytes((0xFF,)), check=False)
        assert (result.status, result.sense[2]) == (2, 5)


async def test_residuals() -> None:
    async with opened() as lun:
        under = await lun.execute(cdb.inquiry(36), bytearray(100))
        assert (under.residual, under.overflow) == (64, False)
        over = await lun.execute(cdb.inquiry(36), bytearray(16))
        assert (over.residual, over.overflow) == (20, True)


async def test_what_libiscsi_cannot_do_is_a_usage_error() -> None:
    async with opened() as lun:
        with pytest.raises(UsageError, match="CDB of 32 bytes"):
            await lun.execute(bytes(32))
        with pytest.raises(UsageError, match="in or out"):
            await lun.execute(bytes(6), bytearray(8), bytes(8))


SECRET, TARGET_SECRET = "initiator secret", "the target's secret"


def guarded(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A target that lets in whoever proves to be alice, and proves to be us."""
    monkeypatch.setenv("ALICE", SECRET)
    monkeypatch.setenv("US", TARGET_SECRET)
    acl = ({"initiator": "*", "chap": ["alice"], "mutual": "us"},)
    chap = {"alice": {"secret_env": "ALICE"}, "us": {"secret_env": "US"}}
    portal = {"p": {"listen": "iscsi://127.0.0.1:0"}}
    return config(portal=portal, chap=chap, target=tuple(entry | {"acl": acl} for entry in disk()))


async def test_chap_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    alice = {"user": "alice", "password": SECRET, "target_user": "us", "target_password": TARGET_SECRET}
    async with opened(guarded(monkeypatch), **alice) as lun:
        assert await lun.read(0, 1) == bytes(BLOCK)


async def test_the_environment_says_who_we_are_where_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBISCSI_CHAP_USERNAME", "alice")
    monkeypatch.setenv("LIBISCSI_CHAP_PASSWORD", SECRET)
    async with opened(guarded(monkeypatch)) as lun:
        assert await lun.read(0, 1) == bytes(BLOCK)


async def test_a_target_that_cannot_prove_itself_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    who = {"user": "alice", "password": SECRET, "target_user": "us", "target_password": "not their secret"}
    async with served(guarded(monkeypatch)) as (_, url):
        with pytest.raises(ConnectionFailed, match=r"(?i)auth"):
            await libiscsi.connect(url, **who)


@pytest.mark.parametrize(("option", "words"), [({"data_digest": True}, "data_digest"), ({"chap": "sha256"}, "MD5")])
async def test_protection_that_libiscsi_does_not_have_is_not_left_out_in_silence(
    option: dict[str, Any], words: str
) -> None:
    async with served() as (_, url):
        with pytest.raises(UsageError, match=words):
            await libiscsi.connect(url, **option)


TWO_PORTALS = {name: {"listen": "iscsi://127.0.0.1:0"} for name in "pq"}


async def test_a_login_goes_where_the_target_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target of several workers does that; libiscsi's own way to follow is only in calls that block."""
    async with served(config(portal=TWO_PORTALS, target=disk())) as (server, url):
        redirecting(monkeypatch, server)
        async with await libiscsi.connect(url) as lun:
            assert lun.portal.port == server.addresses[1][1]
            assert await lun.read(0, 1) == bytes(BLOCK)


async def test_a_login_that_is_sent_in_circles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (server, url):
        redirecting(monkeypatch, server, always=True)
        with pytest.raises(ConnectionFailed, match="redirected the login more than 3 times"):
            await libiscsi.connect(url)


async def test_a_redirection_to_no_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (server, url):
        redirecting(monkeypatch, server, always=True)
        monkeypatch.setattr(TargetAddress, "__str__", lambda self: "nowhere:0")
        with pytest.raises(ConnectionFailed, match="'nowhere:0' for an address"):
            await libiscsi.connect(url)


@pytest.mark.parametrize("who", [{}, {"user": "alice", "password": "not her secret"}])
async def test_without_the_secret_nobody_gets_in(who: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(guarded(monkeypatch)) as (_, url):
        with pytest.raises(ConnectionFailed, match=r"(?i)auth"):
            await libiscsi.connect(url, **who)


# Giving up


async def test_a_cancelled_command_is_aborted_and_its_memory_is_free() -> None:
    async with opened(tcp(SLOW), immediate_data=False) as lun:
        memory = bytearray(64 << 10)
        doomed = asyncio.ensure_future(lun.write(0, memory))
        await until(lambda: session_of(lun).outstanding)
        await asyncio.sleep(0.05)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert session_of(lun).outstanding == 0
        memory.extend(b"x")  # nobody holds it
        assert await lun.read(0, 1)


async def test_a_command_that_takes_too_long_is_aborted() -> None:
    async with opened(tcp(SLOW)) as lun:
        with pytest.raises(CommandTimeout, match=r"0\.05 seconds"):
            await lun.execute(cdb.write_blocks(0, 1), data_out=bytes(BLOCK), timeout=0.05)
        assert session_of(lun).outstanding == 0
        assert await lun.read(0, 1)


async def test_cancelling_at_random_harms_nobody_else() -> None:
    randomness = random.Random(1)
    async with opened(tcp(SLOW | {"seconds": 0.01}), immediate_data=False) as lun:

        async def one(number: int) -> None:
            work = asyncio.ensure_future(lun.write(number * 16, bytes((number,)) * 8192))
            await asyncio.sleep(randomness.random() * 0.05)
            if number % 3:
                await work
                assert await lun.read(number * 16, 16) == bytes((number,)) * 8192
            else:
                work.cancel()
                await asyncio.wait((work,))

        await asyncio.gather(*map(one, range(60)))
        assert session_of(lun).outstanding == 0


async def test_an_abort_that_is_not_answered_drops_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    control = Session.control_notify

    def deaf(self: Session, pdu: Any) -> None:
        if not isinstance(pdu.bhs, TaskManagementRequest):
            control(self, pdu)

    monkeypatch.setattr(Session, "control_notify", deaf)
    monkeypatch.setattr("initiator.libiscsi.session.ABORT_TIMEOUT", 0.1)
    async with opened(tcp(SLOW)) as lun:
        with pytest.raises(CommandTimeout):
            await lun.execute(cdb.write_blocks(0, 1), data_out=bytes(BLOCK), timeout=0.05)
        assert "could not be aborted" in (session_of(lun).ended or "")
        with pytest.raises(ConnectionLost, match="could not be aborted"):
            await lun.read(0, 1)


# Ends


async def test_a_connection_that_dies_ends_every_command() -> None:
    async with served(tcp(SLOW)) as (server, url):
        lun = await libiscsi.connect(url)
        memory = [bytearray(8192) for _ in range(8)]
        load = [asyncio.ensure_future(lun.write(n * 16, piece)) for n, piece in enumerate(memory)]
        await asyncio.sleep(0.05)
        await server.close(drain=0)
        ends = await asyncio.gather(*load, return_exceptions=True)
        assert {type(end) for end in ends} == {ConnectionLost}
        for piece in memory:
            piece.extend(b"x")
        await until(lambda: session_of(lun).ended)
        with pytest.raises(ConnectionLost):
            await lun.read(0, 1)
        await lun.close()
        await lun.close()
        assert session_of(lun).outstanding == 0


async def test_a_target_that_breaks_the_protocol_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """libiscsi ends the commands that run, and would go on with the next as if nothing had happened."""

    def misplaced(self: Session, pdu: Any) -> None:
        data = DataIn(flags=FINAL, itt=pdu.bhs.itt, ttt=RESERVED_TAG, buffer_offset=1 << 30, max_cmd_sn=64)
        self._datamover.send_control(Pdu(data, bytes(BLOCK)))

    async with served() as (_, url):
        lun = await libiscsi.connect(url)
        with monkeypatch.context() as patched:
            patched.setattr(Session, "control_notify", misplaced)
            with pytest.raises(ConnectionLost):
                await lun.execute(cdb.inquiry(36), bytearray(36))
        with pytest.raises(ConnectionLost, match="the connection was lost: "):
            await lun.read(0, 1)
        assert session_of(lun).ended
        await lun.close()
        assert session_of(lun).outstanding == 0


async def test_an_idle_connection_that_dies_is_noticed() -> None:
    async with served() as (server, url):
        lun = await libiscsi.connect(url)
        await server.close(drain=0)
        await until(lambda: session_of(lun).ended)
        assert "lost" in (session_of(lun).ended or "")
        await lun.close()


async def test_closing_ends_what_is_on_its_way() -> None:
    async with opened(tcp(SLOW)) as lun:
        load = asyncio.ensure_future(lun.write(0, bytes(BLOCK)))
        await until(lambda: session_of(lun).outstanding)
        await lun.close()
        assert session_of(lun).ended == "the session was closed"
        with pytest.raises(ConnectionLost, match="closed"):
            await load


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("iscsi://127.0.0.1:1/{target}/0", "refused"),
        ("iser://127.0.0.1:1/{target}/0", "127.0.0.1:1"),  # no RDMA device, or nobody there
        ("iscsi://127.0.0.1:{port}/iqn.2026-11.test:none/0", "Target not found"),
        ("iscsi://127.0.0.1:{port}/{target}/7", "no LUN 7"),
    ],
)
async def test_where_one_cannot_connect_it_says_why(url: str, words: str) -> None:
    async with served() as (server, _):
        with pytest.raises(ConnectionFailed, match=words):
            await libiscsi.connect(url.format(target=TARGET, port=server.addresses[0][1]))


async def test_a_portal_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/{TARGET}/0"
        with pytest.raises(ConnectionFailed, match=r"within 0\.2 seconds"):
            await libiscsi.connect(url, login_timeout=0.2)


async def test_a_cancelled_login_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"iscsi://127.0.0.1:{silent.getsockname()[1]}/{TARGET}/0"
        work = asyncio.ensure_future(libiscsi.connect(url))
        await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
