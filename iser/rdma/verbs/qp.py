"""The queue pair: our send queue in front of the device's, its completions, and a clean end.

The device's queue is short and holds back everything behind a read without credit, so what is posted waits here:
Sends, Writes and registrations in order, reads by themselves (as with softiwarp, who needs a read done before a later
Send waits for its completion).  Every few requests one asks for a completion, which stands for those before it.
"""

from __future__ import annotations

from typing import Any

from iser.errors import LocalProtocolError, ResourceError
from iser.rdma.api import QpCap, QpState, WcOpcode, WcStatus, WorkCompletion, WorkRequest
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.lifetime import Lifetime, Phase
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.options import SIGNAL_INTERVAL
from iser.rdma.verbs.posting import Poster
from iser.rdma.verbs.request import OPCODES

__all__ = ["VerbsQueuePair"]


class VerbsQueuePair(Lifetime):
    """See :class:`iser.rdma.api.QueuePair`."""

    def __init__(self, device: OpenDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, cap: QpCap) -> None:
        super().__init__(device, pd, cq, cap)
        self._poster = Poster(device, pd, self._requests, self._sends, self._late)
        # Of silent ones the last few may be complete without our knowing.
        self._limit = cap.max_send_wr + SIGNAL_INTERVAL
        cq.attach(self)
        pd.acquire()
        device.attach(self)

    @property
    def state(self) -> QpState:
        if self.phase is Phase.INIT:
            return QpState.INIT
        return QpState.RTS if self.phase in (Phase.RTS, Phase.OPENING) else QpState.ERR

    def post_send(self, *wrs: WorkRequest) -> None:
        phase = self.phase
        if phase is Phase.INIT:
            raise LocalProtocolError("the queue pair is not connected; only receives can be posted")
        if phase is not Phase.RTS and phase is not Phase.OPENING:
            self._late.add(*[WorkCompletion(wr.wr_id, WcStatus.WR_FLUSH_ERR, OPCODES[type(wr)], 0) for wr in wrs])
            return
        if self._sends.posted + len(wrs) > self._limit:
            raise ResourceError(
                f"{self._sends.posted} work requests are posted and {len(wrs)} more pass the limit; raise max_send_wr"
            )
        self._poster.post(wrs)

    def post_recv(self, wr_id: object, buffer: memoryview) -> None:
        phase = self.phase
        if phase is Phase.ENDING or phase is Phase.CLOSED:
            self._late.add(WorkCompletion(wr_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0))
            return
        receive = self._receives.take(wr_id, buffer)
        if self._cm is None:
            self._receives.unposted.append(receive)
            return
        try:
            self._raw.post_recv(receive.wr)
        except self._device.pyverbs.Error as error:
            self._broken(device_error(f"{self.name}: posting a receive to {self._device.name}", error))

    def complete(self, completion: Any, batch: list[WorkCompletion]) -> None:
        """Take one completion of the device; what our user hears of it is added to ``batch``."""
        wr_id: int = completion.wr_id
        status: int = completion.status
        if wr_id & 1:
            self._receives.complete(wr_id >> 1, status, completion, batch)
            if not status and not self._established:
                self._heard()
        else:
            self._sends.complete(wr_id >> 1, status, batch)
        if status:
            self._failed(status, completion)
            self._interrupted = self._interrupted or (not wr_id & 1 and self.phase is Phase.RTS)
