"""One end of the TCP datamover under test, and PDU by PDU what is at the other end of the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from iser.datamover import DatamoverState
from iser.datamover.tcp import TcpInitiator, TcpTarget
from iser.datamover.tcp.endpoint import TcpEndpoint
from iser.errors import IserError, PduError, RemoteProtocolError
from iser.login import NegotiatedParameters
from iser.net import StreamTimes, TcpListener
from iser.pdu import LoginResponse, Pdu, decode_bhs, encode

__all__ = ["PARAMS", "QUICK", "User", "Wire", "initiator", "target"]

PARAMS = NegotiatedParameters(
    max_recv_data_segment_length_initiator=4096,
    max_recv_data_segment_length_target=65536,
    max_burst_length=65536,
    max_outstanding_r2t=2,
)
QUICK = StreamTimes(stall=1, linger=0.05)


class User:
    """The iSCSI layer: keeps what comes up."""

    def __init__(self) -> None:
        self.pdus: list[tuple[Any, bytes]] = []
        self.malformed: list[PduError] = []
        self.completed: list[tuple[int, int]] = []
        self.failed: list[tuple[int, int, str]] = []
        self.ends: list[IserError | None] = []
        self.raises: Exception | None = None

    def control_notify(self, pdu: Pdu) -> None:
        self.pdus.append((pdu.bhs, bytes(pdu.data)))
        if self.raises:
            raise self.raises

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        self.malformed.append(error)

    def data_completion_notify(self, itt: int, sn: int) -> None:
        self.completed.append((itt, sn))

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        self.failed.append((itt, sn, str(error)))

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        self.ends.append(reason)

    async def until(self, what: str, count: int = 1) -> list[Any]:
        """The list called ``what``, when it has ``count`` entries."""
        found: list[Any] = getattr(self, what)
        for _ in range(600):
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)
        raise AssertionError(f"{what}: {found}, wanted {count}")

    async def refused(self) -> str:
        """Why the connection ended: the peer broke the protocol."""
        (reason,) = await self.until("ends")
        assert isinstance(reason, RemoteProtocolError), reason
        return str(reason)


class Wire:
    """The peer: raw PDUs on a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, *pdus: Pdu | bytes) -> None:
        wire = b"".join(pdu if isinstance(pdu, bytes) else encode(pdu) for pdu in pdus)
        await self._loop.sock_sendall(self.sock, wire)

    async def receive(self) -> tuple[Any, bytes]:
        """The next PDU."""
        bhs = decode_bhs(await self._exactly(48))
        length = bhs.data_segment_length
        return bhs, (await self._exactly(length + 3 & ~3))[:length]

    async def gone(self) -> bool:
        """The other side has closed, without sending anything more."""
        try:
            return not await asyncio.wait_for(self._loop.sock_recv(self.sock, 1), 5)
        except ConnectionResetError:
            return True

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = await asyncio.wait_for(self._loop.sock_recv(self.sock, length - len(data)), 5)
            assert part, "the connection ended"
            data += part
        return data


def enable(end: TcpEndpoint, changes: dict[str, Any]) -> None:
    end.notice_key_values(replace(PARAMS, **changes))
    end.allocate_connection_resources(8)
    end.enable_datamover()


@asynccontextmanager
async def _accepted() -> AsyncIterator[tuple[TcpListener, asyncio.Queue[socket.socket]]]:
    queue: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = await TcpListener.open("127.0.0.1", 0, queue.put_nowait)
    yield listener, queue
    await listener.close()


@asynccontextmanager
async def target(times: StreamTimes = QUICK, **changes: Any) -> AsyncIterator[tuple[TcpTarget, User, Wire]]:
    """The target's end in full-feature phase; ``changes`` are of PARAMS."""
    user = User()
    end = TcpTarget(user)
    async with _accepted() as (listener, queue):
        peer = socket.create_connection(listener.address)
        peer.setblocking(False)
        end.accept(await queue.get(), times)
    end.send_control(Pdu(LoginResponse(stat_sn=99, exp_cmd_sn=10, max_cmd_sn=20)))
    wire = Wire(peer)
    await wire.receive()
    enable(end, changes)
    try:
        yield end, user, wire
    finally:
        peer.close()
        await end.close()
    assert end.state is DatamoverState.CLOSED


@asynccontextmanager
async def initiator(**changes: Any) -> AsyncIterator[tuple[TcpInitiator, User, Wire]]:
    """The initiator's end in full-feature phase."""
    user = User()
    async with _accepted() as (listener, queue):
        end = await TcpInitiator.connect(*listener.address, user, 5, QUICK)
        peer = await queue.get()
    enable(end, changes)
    try:
        yield end, user, Wire(peer)
    finally:
        peer.close()
        await end.close()
    assert end.state is DatamoverState.CLOSED
