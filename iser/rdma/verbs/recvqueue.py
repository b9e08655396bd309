"""The receive side: receives are built once for each buffer and told apart by a number."""

from __future__ import annotations

from collections import deque
from typing import Any

from iser.errors import MemoryRegionError, ResourceError
from iser.rdma.api import WcOpcode, WcStatus, WorkCompletion
from iser.rdma.verbs.constants import WC_INVALIDATED
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.memory import Hold, VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.request import status_of

__all__ = ["Receive", "ReceiveQueue"]


class Receive:
    """A receive and its prebuilt request, kept for the next post of the same buffer."""

    __slots__ = ("buffer", "hold", "number", "user_id", "wr")

    def __init__(self, number: int, buffer: memoryview, wr: Any, hold: Hold) -> None:
        self.number = number
        self.buffer = buffer
        self.wr = wr
        self.hold = hold
        self.user_id: object = None


class ReceiveQueue:
    """Receives of the device's queue pair ``raw``, at most ``limit``.

    ``posted`` has them by number; those that came before INIT stand in ``unposted``, too.
    """

    __slots__ = ("_limit", "_make", "_numbers", "_pd", "_raw", "_sge", "_spare", "posted", "unposted")

    def __init__(self, device: OpenDevice, pd: VerbsProtectionDomain, raw: Any, limit: int) -> None:
        self._pd = pd
        self._raw = raw
        self._limit = limit
        self._make: Any = device.pyverbs.RecvWR
        self._sge: Any = device.pyverbs.SGE
        self.posted: dict[int, Receive] = {}
        self._spare: dict[int, Receive] = {}  # by id of the buffer, which they hold
        self._numbers = 0
        self.unposted: deque[Receive] = deque()  # before INIT

    def start(self) -> None:
        """The device takes receives now: hand it the ``unposted``.  Raises pyverbs' own errors."""
        while self.unposted:
            self._raw.post_recv(self.unposted.popleft().wr)

    def take(self, wr_id: object, buffer: memoryview) -> Receive:
        """A receive to post.  Raises ResourceError past the limit, and MemoryRegionError."""
        receive = self._spare.pop(id(buffer), None)
        if receive is None:
            receive = self._new(buffer)
        receive.user_id = wr_id
        self.posted[receive.number] = receive
        return receive

    def _new(self, buffer: memoryview) -> Receive:
        if len(self.posted) >= self._limit:
            raise ResourceError(f"{len(self.posted)} receives are posted, the limit; raise max_recv_wr")
        if buffer.readonly:
            raise MemoryRegionError("a receive needs a writable buffer")
        hold: Hold = []
        elements = self._pd.elements((buffer,), hold)
        if len(elements) > 1:
            self._pd.drop(hold)
            raise MemoryRegionError("a receive needs a buffer in one piece; use one of alloc_buffer()")
        self._numbers += 1
        sges = [self._sge(*element) for element in elements]
        wr = self._make(self._numbers << 1 | 1, len(sges), sges)
        for sge in sges:
            sge.close()
        return Receive(self._numbers, buffer, wr, hold)

    def complete(self, number: int, status: int, completion: Any, batch: list[WorkCompletion]) -> None:
        """A receive is over; what our user hears of it is added to ``batch``."""
        receive = self.posted.pop(number)
        self._spare[id(receive.buffer)] = receive
        if status:
            batch.append(WorkCompletion(receive.user_id, status_of(status), WcOpcode.RECV, 0))
            return
        invalidated = 0
        if completion.wc_flags & WC_INVALIDATED:
            invalidated = self._invalidated(completion.imm_data)
        batch.append(WorkCompletion(receive.user_id, WcStatus.SUCCESS, WcOpcode.RECV, completion.byte_len, invalidated))

    def _invalidated(self, rkey: int) -> int:
        region = self._pd.region_of(rkey)
        if isinstance(region, IndirectRegion):
            region.invalidate()
        return rkey

    def close(self) -> None:
        """Free the receives; the device is done with them."""
        for receive in (*self.posted.values(), *self._spare.values()):
            receive.wr.close()
            self._pd.drop(receive.hold)
        self._spare.clear()

    def flush(self, batch: list[WorkCompletion]) -> None:
        """Complete what the device did not, and forget it."""
        batch += [
            WorkCompletion(receive.user_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0) for receive in self.posted.values()
        ]
        self.posted.clear()
        self.unposted.clear()
