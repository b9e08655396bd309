"""Both sides of rdma-core's ``rping``, on any provider of ours.

For each ping the client sends 16 bytes that advertise its source (address, key, length), the server reads it by RDMA
Read and answers with a message, the client advertises its sink, the server writes the same bytes there by RDMA Write
and answers once more.  What the server's messages contain does not matter.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Sequence
from typing import Final, Self

from iser.errors import ConnectionLost, IserError
from iser.rdma.api import (
    Access,
    ConnectionParams,
    ConnectRequest,
    Device,
    MemoryRegion,
    MrType,
    Provider,
    QpCap,
    QueuePair,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
)
from iser.sg import SgList

__all__ = ["End", "client", "serve_one"]

_INFO: Final = struct.Struct(">QII")  # address, key, length
_RECEIVES: Final = 4
_PARAMS: Final = ConnectionParams(responder_resources=1, initiator_depth=1)


class End:
    """A queue pair with receives for messages, awaited one after the other."""

    def __init__(self, device: Device) -> None:
        self.pd = device.alloc_pd()
        self._cq = device.create_cq(64, self._completed)
        self.qp: QueuePair = device.create_qp(self.pd, self._cq, QpCap(16, _RECEIVES))
        self.qp.on_disconnect = self._ended
        self._buffers = [self.pd.alloc_buffer(_INFO.size) for _ in range(_RECEIVES)]
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._done: asyncio.Queue[WcStatus] = asyncio.Queue()
        for index in range(_RECEIVES):
            self.qp.post_recv(index, self._buffers[index])

    def _completed(self, batch: list[WorkCompletion]) -> None:
        for wc in batch:
            if wc.opcode is not WcOpcode.RECV:
                self._done.put_nowait(wc.status)
            elif wc.status is WcStatus.SUCCESS:
                assert isinstance(wc.wr_id, int)
                buffer = self._buffers[wc.wr_id]
                self._messages.put_nowait(bytes(buffer[: wc.byte_len]))
                self.qp.post_recv(wc.wr_id, buffer)

    def _ended(self, reason: IserError | None) -> None:
        del reason
        self._messages.put_nowait(None)
        self._done.put_nowait(WcStatus.WR_FLUSH_ERR)

    async def message(self) -> bytes | None:
        """The next one; None at the end of the connection."""
        return await self._messages.get()

    async def carry_out(self, request: Send | RdmaRead | RdmaWrite) -> None:
        """Post and wait.  Raises ConnectionLost."""
        self.qp.post_send(request)
        status = await self._done.get()
        if status is not WcStatus.SUCCESS:
            raise ConnectionLost(f"{type(request).__name__} ended with {status.name}")

    async def send(self, message: bytes) -> None:
        """One message."""
        buffer = self.pd.alloc_buffer(len(message))
        buffer[:] = message
        await self.carry_out(Send("send", [buffer]))

    def region(self, buffers: Sequence[memoryview], access: Access) -> MemoryRegion:
        """Register memory that the peer may use."""
        mr = self.pd.alloc_mr(MrType.MEM_REG, 64)
        mr.map_sg(SgList.of(list(buffers), writable=True))
        self.qp.post_send(RegMr("reg", mr, mr.next_key(access), access))
        return mr

    async def close(self) -> None:
        """Disconnect and free."""
        await self.qp.close()
        self._cq.close()
        self.pd.close()

    @classmethod
    async def connect(cls, provider: Provider, host: str, port: int) -> Self:
        """Raises ConnectionFailed."""
        ends: list[Self] = []

        def setup(device: Device) -> QueuePair:
            ends.append(cls(device))
            return ends[0].qp

        await provider.connect(host, port, setup, _PARAMS)
        return ends[0]


async def client(provider: Provider, host: str, port: int, pings: int, size: int) -> None:
    """Ping a ``rping -s`` and compare.  Raises ConnectionFailed, ConnectionLost; AssertionError for changed bytes."""
    end = await End.connect(provider, host, port)
    try:
        source, sink = end.pd.alloc_buffer(size), end.pd.alloc_buffer(size)
        access = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE
        regions = [end.region([buffer], access) for buffer in (source, sink)]
        for number in range(pings):
            # rping takes what it reads for a C string, and writes back up to the zero at its end.
            source[:] = random.Random(number).randbytes(size - 1).replace(b"\0", b"\1") + b"\0"
            for region in regions:
                await end.send(_INFO.pack(region.iova, region.rkey, size))
                if await end.message() is None:
                    raise ConnectionLost(f"rping hung up in ping {number}")
            assert sink == source, f"ping {number} came back changed"
    finally:
        await end.close()


async def serve_one(provider: Provider, host: str, port_known: asyncio.Future[int]) -> int:
    """Serve one ``rping -c`` until it disconnects; how many pings it made.  ``port_known`` gets the port."""
    accepted: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def on_request(request: ConnectRequest) -> None:
        end = End(request.device)
        await request.accept(end.qp, _PARAMS)
        accepted.set_result(end)

    listener = await provider.listen(host, 0, on_request)
    port_known.set_result(listener.address[1])
    try:
        end = await accepted
        try:
            return await _serve(end)
        finally:
            await end.close()
    finally:
        await listener.close()


async def _serve(end: End) -> int:
    pings = 0
    while (message := await end.message()) is not None:
        address, key, size = _INFO.unpack(message)
        buffer = end.pd.alloc_buffer(size)
        await end.carry_out(RdmaRead("read", [buffer], address, key))
        await end.send(bytes(_INFO.size))
        message = await end.message()
        if message is None:
            break
        address, key, size = _INFO.unpack(message)
        await end.carry_out(RdmaWrite("write", [buffer[:size]], address, key, signaled=True))
        await end.send(bytes(_INFO.size))
        pings += 1
    return pings
