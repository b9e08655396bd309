"""Faults of initiators in the guest, shown by our target in this process without what works round them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from iser.datamover.tcp import TcpTarget
from iser.login import Negotiation
from iser.login.keys import Key
from iser.login.text import IRRELEVANT
from iser.pdu import COMMAND_WRITE, RESERVED_TAG, AsyncMessage, NopIn, Pdu, ScsiCommand
from target.connection import SMALL_DATA_LENGTH, Connection
from target.server import TargetServer
from target.session import Session
from tests.interop.kernel_row import Node
from tests.interop.peers.open_iscsi import OpenIscsi
from tests.interop.recorder import Notes, peer_fault
from tests.lab import HOST, CommandFailed, Machine
from tests.target.peer import config, disk, serving

_TAKE_OFFER: Final = Negotiation._take_offer
_NAME: Final = "iqn.2026-11.lab:faults"
_WAIT_SECONDS: Final = 20.0  # for a connection that comes or goes; all is emulated
_QUIET_SECONDS: Final = 1.5  # that a connection has to last to count as one that took a message


@asynccontextmanager
async def _serving(scheme: str = "iser") -> AsyncIterator[tuple[TargetServer, Node]]:
    """Our target in this process, with a disk in memory, and what open-iscsi has to know of it."""
    portal = {"p": {"listen": f"{scheme}://127.0.0.1:0"}}
    async with serving(config(portal=portal, target=disk(name=_NAME, size="16M"))) as (server, port):
        yield server, Node(_NAME, f"{HOST}:{port}")


async def _logged_in(server: TargetServer) -> Connection:
    """The connection of the one session."""
    async with asyncio.timeout(_WAIT_SECONDS):
        while True:
            for connection in server.connections:
                if connection.session:
                    return connection
            await asyncio.sleep(0.1)


async def _check_room(server: TargetServer, notes: Notes, message: AsyncMessage | NopIn) -> None:
    """A message with 128 bytes of data leaves the one connection as it is, and one with 129 ends it."""
    connection = await _logged_in(server)
    assert connection.session
    notes.add(f"InitiatorRecvDataSegmentLength={connection.session.login.params.initiator_recv_data_segment_length}")
    for size, outlived in ((SMALL_DATA_LENGTH, True), (SMALL_DATA_LENGTH + 1, False)):
        connection.session._send(message, bytes(size))
        await asyncio.sleep(_QUIET_SECONDS)
        assert (connection in server.connections) is outlived, f"{size} bytes"


class TestKernel:
    """ib_iser, and open-iscsi's iscsid, which logs in for it."""

    @pytest.fixture
    def kernel(self, lab: Machine) -> OpenIscsi:
        """iscsid, running."""
        return OpenIscsi(lab)

    @peer_fault("Linux ib_iser 6.1", "takes no more than 128 bytes of data, whatever it says at login")
    async def test_ib_iser_has_room_for_128_bytes(self, kernel: OpenIscsi, notes: Notes) -> None:
        async with _serving() as (server, node):
            await asyncio.to_thread(kernel.login, node)
            try:
                await _check_room(server, notes, AsyncMessage())  # a ping with data would be a protocol error to it
            finally:
                await asyncio.to_thread(kernel.logout, node)

    @peer_fault("open-iscsi 2.1.8", "gives a login up at a key that it does not know")
    async def test_open_iscsi_gives_up_at_an_unknown_key(
        self, kernel: OpenIscsi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Negotiation, "declarations", lambda self: [("MaxAHSLength", "256")])  # RFC 7145, 6.10
        async with _serving() as (_, node):
            try:
                with pytest.raises(CommandFailed, match="ended with 19"):
                    await asyncio.to_thread(kernel.login, node)
            finally:
                await asyncio.to_thread(kernel.forget, node)


def _irrelevant(negotiation: Negotiation, key: Key, value: str) -> str | None:
    """The answer to an offer, but that FirstBurstLength is of no importance here."""
    answer = _TAKE_OFFER(negotiation, key, value)
    return IRRELEVANT if key.name == "FirstBurstLength" else answer


async def _write(server: TargetServer) -> None:
    """Write 4 KiB with libiscsi over TCP, on this machine."""
    place = f"iscsi://127.0.0.1:{server.addresses[0][1]}/{_NAME}/0"
    process = await asyncio.create_subprocess_exec(
        "qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", place, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(_WAIT_SECONDS):
        assert await process.wait() == 0


class TestLibiscsi:
    """libiscsi, over TCP and iSER."""

    @peer_fault("libiscsi 1.19", 'takes "Irrelevant", which answers an offer without importance, for the number 0')
    async def test_libiscsi_takes_irrelevant_for_zero(self, monkeypatch: pytest.MonkeyPatch) -> None:
        immediate: list[int] = []  # bytes of data that came with each write

        def spy(session: Session, pdu: Pdu) -> None:
            if isinstance(pdu.bhs, ScsiCommand) and pdu.bhs.flags & COMMAND_WRITE:
                immediate.append(len(pdu.data))
            control_notify(session, pdu)

        control_notify = Session.control_notify
        monkeypatch.setattr(Session, "control_notify", spy)
        monkeypatch.setattr(TcpTarget, "serve_quickly", lambda datamover, start: None)  # which passes the spy by
        async with _serving("iscsi") as (server, _):
            await _write(server)
            monkeypatch.setattr(Negotiation, "_take_offer", _irrelevant)
            await _write(server)
        assert immediate == [4096, 0]

    @peer_fault("libiscsi 1.19 iser", "takes no more than 128 bytes of data, whatever it says at login")
    async def test_libiscsi_has_room_for_128_bytes(self, lab: Machine, notes: Notes) -> None:
        async with _serving() as (server, node):
            load = lab.start(f"iscsi-perf -m 1 -b 1 iser://{node.portal}/{node.name}/0")
            try:
                # It crashes at an asynchronous message, and at any other that answers none of its requests.
                await _check_room(server, notes, NopIn(itt=RESERVED_TAG, ttt=RESERVED_TAG))
            finally:
                load.kill()
                await asyncio.to_thread(load.wait)
