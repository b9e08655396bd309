"""Several STags for one list: a small protocol of our own over the verbs seam, as iSER has no room for them.

It is no storage protocol: the other process (``python -m initiator.bench.multi_mr``) moves bytes between the regions
that a message names and an array of its own, one RDMA operation for each region, and answers.  What it leaves out
(PDUs, SCSI, a window) makes it faster than iSER could be; its numbers say what many keys cost at the least.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections import deque
from typing import Final, Self

from initiator.bench.cases import MAX_MULTI_RUNS
from iser.errors import ConnectionLost, IserError, PoolEmpty, RemoteProtocolError
from iser.rdma.api import (
    ConnectionParams,
    ConnectRequest,
    Device,
    LocalInv,
    QpCap,
    QueuePair,
    RdmaRead,
    RdmaWrite,
    Send,
    WcOpcode,
    WorkCompletion,
    WorkRequest,
)
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.sg import Direction, Registration, RegistrationCounters, SgList
from iser.sg.planner import DEFAULT_SG_TABLESIZE
from iser.sg.strategies import Resources
from iser.sg.strategies.multi_mr import MultiMr

__all__ = ["MEMORY", "MultiMrClient"]

MEMORY: Final = 64 << 20  # bytes of the server's array
MAX_REQUESTS: Final = 256  # on their way at once

_HEAD: Final = struct.Struct("!BBHIQ")  # direction, who invalidates, regions, request, offset in the array
_REGION: Final = struct.Struct("!QII")  # address, key, length
_ANSWER: Final = struct.Struct("!I")
_SLOT: Final = _HEAD.size + MAX_MULTI_RUNS * _REGION.size
_MAX_SEND_WR: Final = 65536
_MAX_BYTES: Final = 16 << 20
_CONNECT_TIMEOUT: Final = 10.0
_READ, _WRITE = 0, 1


class _End:
    """A queue pair with its receives posted."""

    def __init__(self, device: Device) -> None:
        self.pd = device.alloc_pd()
        self._cq = device.create_cq(_MAX_SEND_WR + MAX_REQUESTS, self._completed)
        self.qp = device.create_qp(self.pd, self._cq, QpCap(_MAX_SEND_WR, MAX_REQUESTS))
        self.qp.on_disconnect = self._disconnected
        self.over = asyncio.Event()
        arena = self.pd.alloc_buffer(MAX_REQUESTS * _SLOT)
        for start in range(0, MAX_REQUESTS * _SLOT, _SLOT):
            slot = arena[start : start + _SLOT]
            self.qp.post_recv(slot, slot)

    def _disconnected(self, reason: IserError | None) -> None:
        del reason
        self.over.set()
        self.ended()

    def _completed(self, completions: list[WorkCompletion]) -> None:
        for wc in completions:
            if wc.status:
                continue  # the connection is ending
            if wc.opcode is WcOpcode.RECV:
                slot = wc.wr_id
                assert isinstance(slot, memoryview)
                self.received(slot[: wc.byte_len], wc.invalidated_rkey)
                self.qp.post_recv(slot, slot)
            else:
                self.moved(wc.wr_id)

    def received(self, message: memoryview, invalidated: int) -> None:
        """A message came."""

    def moved(self, wr_id: object) -> None:
        """A signaled operation is complete."""

    def ended(self) -> None:
        """The connection is gone."""

    async def close(self) -> None:
        """Disconnect and free everything."""
        await self.qp.close()
        self._cq.close()
        self.pd.close()


class _Server(_End):
    """Moves the bytes."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._memory = self.pd.alloc_buffer(MEMORY)

    def received(self, message: memoryview, invalidated: int) -> None:
        direction, remote, count, request, offset = _HEAD.unpack_from(message)
        regions = [_REGION.unpack_from(message, _HEAD.size + index * _REGION.size) for index in range(count)]
        if offset + sum(region[2] for region in regions) > MEMORY:
            self.qp.abort(RemoteProtocolError("a request reaches beyond the array"))
            return
        answer = Send(None, [memoryview(_ANSWER.pack(request))], regions[0][1] if remote else 0, False)
        work: list[WorkRequest] = []
        for address, key, length in regions:
            piece = [self._memory[offset : offset + length]]
            offset += length
            if direction == _READ:
                work.append(RdmaWrite(None, piece, address, key))
            else:
                work.append(RdmaRead(None, piece, address, key, signaled=False))
        if direction == _READ:
            work.append(answer)
        else:
            last = work[-1]
            assert isinstance(last, RdmaRead)
            last.signaled, last.wr_id = True, answer
        self.qp.post_send(*work)

    def moved(self, wr_id: object) -> None:
        assert isinstance(wr_id, Send)
        self.qp.post_send(wr_id)


class _Request:
    """One transfer on its way."""

    __slots__ = ("future", "offset", "registrations", "sg", "write")

    def __init__(self, sg: SgList, offset: int, future: asyncio.Future[None], *, write: bool) -> None:
        self.sg = sg
        self.offset = offset
        self.write = write
        self.future = future
        self.registrations: list[Registration] = []


class MultiMrClient(_End):
    """Moves lists to and from the server's array.  ``pool`` regions at most; transfers beyond that wait in line."""

    def __init__(self, device: Device, pool: int, *, remote_invalidate: bool) -> None:
        super().__init__(device)
        self.resources = Resources(self.pd, device.attributes, pool, DEFAULT_SG_TABLESIZE, _MAX_BYTES)
        self._strategy = MultiMr(self.resources)
        self._remote = remote_invalidate
        self._requests: dict[int, _Request] = {}
        self._waiting: deque[_Request] = deque()
        self._next = 0

    @classmethod
    async def connect(cls, port: int, pool: int, *, remote_invalidate: bool) -> Self:
        """Connect to the server on loopback.  Raises ConnectionFailed."""
        ends: list[Self] = []

        def setup(device: Device) -> QueuePair:
            ends.append(cls(device, pool, remote_invalidate=remote_invalidate))
            return ends[0].qp

        provider = SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0))
        await provider.connect("127.0.0.1", port, setup, ConnectionParams(), _CONNECT_TIMEOUT)
        return ends[0]

    @property
    def counters(self) -> RegistrationCounters:
        """What registration did so far."""
        return self.resources.counters

    async def move(self, sg: SgList, offset: int, *, write: bool) -> None:
        """Move a list from, or for a write to, byte ``offset`` of the array.  Raises ConnectionLost, ResourceError."""
        request = _Request(sg, offset, asyncio.get_running_loop().create_future(), write=write)
        if self._waiting or len(self._requests) >= MAX_REQUESTS or not self._post(request):
            self._waiting.append(request)
        await request.future

    def _post(self, request: _Request) -> bool:
        direction = Direction.WRITE if request.write else Direction.READ
        try:
            registrations = self._strategy.register(request.sg, direction)
        except PoolEmpty:
            self.counters.pool_waits += 1
            if not self._requests:
                raise
            return False
        request.registrations = registrations
        self._next = number = (self._next + 1) & 0xFFFFFFFF
        self._requests[number] = request
        work: list[WorkRequest] = [item for registration in registrations for item in registration.work]
        message = _HEAD.pack(int(request.write), int(self._remote), len(registrations), number, request.offset)
        message += b"".join([_REGION.pack(each.iova, each.rkey, each.length) for each in registrations])
        self.qp.post_send(*work, Send(None, [memoryview(message)], 0, False))
        self.counters.work_requests += 1
        self.counters.commands += 1
        return True

    def received(self, message: memoryview, invalidated: int) -> None:
        (number,) = _ANSWER.unpack_from(message)
        request = self._requests.pop(number)
        counters = self.counters
        stale = [LocalInv(None, each.rkey) for each in request.registrations if each.rkey != invalidated]
        counters.local_invalidations += len(stale)
        counters.work_requests += len(stale)
        counters.remote_invalidations += len(request.registrations) - len(stale)
        if stale:
            self.qp.post_send(*stale)
        self._strategy.release(request.registrations)
        request.future.set_result(None)
        while self._waiting and len(self._requests) < MAX_REQUESTS and self._post(self._waiting[0]):
            self._waiting.popleft()

    def ended(self) -> None:
        for request in (*self._requests.values(), *self._waiting):
            if not request.future.done():
                request.future.set_exception(ConnectionLost("the server of the several-keys protocol has gone"))


async def _serve() -> None:
    """Print the port and serve connections until standard input ends."""

    async def on_request(request: ConnectRequest) -> None:
        server = _Server(request.device)
        await request.accept(server.qp, ConnectionParams())
        await server.over.wait()
        await server.close()

    listener = await SoftIwarp().listen("127.0.0.1", 0, on_request)
    sys.stdout.write(f"{listener.address[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await listener.close()


if __name__ == "__main__":
    from initiator.bench.process import run_loop

    run_loop(_serve())
