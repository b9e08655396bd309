"""Queue pairs on real sockets for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

from iser.errors import IserError
from iser.rdma.api import (
    Access,
    ConnectionInfo,
    ConnectionParams,
    ConnectRequest,
    Device,
    MemoryRegion,
    MrType,
    QpCap,
    RegMr,
    WcStatus,
    WorkCompletion,
    inc_rkey,
)
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.rdma.softiwarp.qp import SoftQueuePair
from tests.rdma.softiwarp.support import ALL, Elements, buffer

#: No waiting: the peers of these tests are our own.
FAST = SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0, linger_timeout=0.1)
HOST = "127.0.0.1"


class End:
    """A queue pair that remembers what happened on it."""

    def __init__(self, device: Device, receives: int = 16, size: int = 4096, depth: int = 256) -> None:
        self.pd = device.alloc_pd()
        self.cq = device.create_cq(4096, self._completed)
        qp = device.create_qp(self.pd, self.cq, QpCap(depth, 256))
        assert isinstance(qp, SoftQueuePair)
        self.qp = qp
        self.log: list[WorkCompletion] = []
        self.batches = 0
        self.ends: list[IserError | None] = []
        self.info: ConnectionInfo | None = None
        self.handler: Callable[[WorkCompletion], None] = lambda wc: None
        self._news = asyncio.Event()
        self.receives = [buffer(size) for _ in range(receives)]
        for number, target in enumerate(self.receives):
            qp.post_recv(("recv", number), target)
        qp.on_disconnect = self._ended

    def _completed(self, batch: list[WorkCompletion]) -> None:
        self.batches += 1
        self.log += batch
        self._news.set()
        for wc in batch:
            self.handler(wc)

    def _ended(self, reason: IserError | None) -> None:
        self.ends.append(reason)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what happened."""
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def completes(self, wr_id: object) -> WorkCompletion:
        await self.until(lambda: any(wc.wr_id == wr_id for wc in self.log))
        return next(wc for wc in self.log if wc.wr_id == wr_id)

    async def over(self) -> IserError | None:
        await self.until(lambda: bool(self.ends))
        return self.ends[0]

    def region(self, views: list[memoryview], access: Access = ALL) -> MemoryRegion:
        mr = self.pd.alloc_mr(MrType.SG_GAPS, max(1, len(views)))
        mr.map_sg(Elements(views))
        self.qp.post_send(RegMr("reg", mr, inc_rkey(mr.rkey), access))
        return mr

    def flushed(self) -> int:
        return sum(wc.status is WcStatus.WR_FLUSH_ERR for wc in self.log)


@contextlib.asynccontextmanager
async def connected(
    options: SoftIwarpOptions = FAST,
    responder: SoftIwarpOptions | None = None,
    params: ConnectionParams | None = None,
    **sizes: int,
) -> AsyncIterator[tuple[End, End]]:
    """An initiator's and a responder's end, closed at the end."""
    ends: list[End] = []
    accepted: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    params = params or ConnectionParams(b"to you")

    async def on_request(request: ConnectRequest) -> None:
        end = End(request.device, **sizes)
        end.info = await request.accept(end.qp, ConnectionParams(b"to me"))
        accepted.set_result(end)

    def setup(device: Device) -> SoftQueuePair:
        ends.append(End(device, **sizes))
        return ends[0].qp

    listener = await SoftIwarp(responder or options).listen(HOST, 0, on_request)
    _, info = await SoftIwarp(options).connect(HOST, listener.address[1], setup, params)
    end = ends[0]
    end.info = info
    other = await accepted
    try:
        yield end, other
    finally:
        await asyncio.gather(end.qp.close(), other.qp.close(), listener.close())


@contextlib.asynccontextmanager
async def against_a_socket(
    request: bytes, options: SoftIwarpOptions = FAST, **sizes: int
) -> AsyncIterator[tuple[End, socket.socket]]:
    """A responder's end whose peer is a plain socket that has sent ``request`` and read the reply to it."""
    accepted: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def on_request(asked: ConnectRequest) -> None:
        end = End(asked.device, **sizes)
        await asked.accept(end.qp, ConnectionParams())
        accepted.set_result(end)

    loop = asyncio.get_running_loop()
    listener = await SoftIwarp(options).listen(HOST, 0, on_request)
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, listener.address)
        await loop.sock_sendall(sock, request)
        end = await accepted
        await loop.sock_recv(sock, 4096)
        try:
            yield end, sock
        finally:
            await asyncio.gather(end.qp.close(), listener.close())
