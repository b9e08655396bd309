"""A device of rdma-core: what is made of it."""

from __future__ import annotations

from typing import Final

from iser.errors import ResourceError, UsageError
from iser.rdma.api import CompletionHandler, CompletionQueue, Device, ProtectionDomain, QpCap, QueuePair
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.options import MIN_SEND_DEPTH
from iser.rdma.verbs.qp import VerbsQueuePair

__all__ = ["VerbsDevice"]

#: Deeper completion queues are never needed: the device's queues are shorter than those we show.
MAX_CQE: Final = 8192


class VerbsDevice(OpenDevice, Device):
    """See :class:`iser.rdma.api.Device`, and :class:`OpenDevice` for how it is opened and closed."""

    def alloc_pd(self) -> ProtectionDomain:
        pd = VerbsProtectionDomain(self)
        self.enter()
        return pd

    def create_cq(self, depth: int, handler: CompletionHandler) -> CompletionQueue:
        if depth < 1:
            raise ResourceError(f"a completion queue of {depth}: give at least 1")
        return VerbsCompletionQueue(
            self, min(max(depth, 2 * MIN_SEND_DEPTH), self.attributes.max_cqe, MAX_CQE), handler
        )

    def create_qp(self, pd: ProtectionDomain, cq: CompletionQueue, cap: QpCap) -> QueuePair:
        if not isinstance(pd, VerbsProtectionDomain) or not isinstance(cq, VerbsCompletionQueue):
            raise UsageError("the protection domain and the completion queue must be of this device")
        room = min(self.attributes.max_qp_wr, cq.depth - MIN_SEND_DEPTH)
        if not 1 <= cap.max_recv_wr <= room or cap.max_send_wr < 1:
            raise ResourceError(
                f"a queue pair of {cap.max_send_wr} and {cap.max_recv_wr}: {self.name} has 1 to {room} receives here; "
                "lower the queue depth"
            )
        return VerbsQueuePair(self, pd, cq, cap)
