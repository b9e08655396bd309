"""The life of a connection: from the connection manager's first word to a clean end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from iser.errors import ConnectionFailed, ConnectionLost, IserError, LocalProtocolError
from iser.rdma.api import QpCap, QueuePair, WcStatus, WorkCompletion
from iser.rdma.verbs.constants import QPS_ERR, QPS_INIT, AsyncEvent, CmEventType, QpAttrMask
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.events import CmId
from iser.rdma.verbs.late import LateCompletions
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.options import FLUSH_TIMEOUT
from iser.rdma.verbs.rawqp import bring, credits_of, make_raw
from iser.rdma.verbs.rdmacm import CmEvent
from iser.rdma.verbs.recvqueue import ReceiveQueue
from iser.rdma.verbs.request import requests_for
from iser.rdma.verbs.sendqueue import SendQueue

__all__ = ["GRACE", "Lifetime", "Phase"]

log = logging.getLogger("iser.rdma.verbs")

GRACE: Final = 0.25  # seconds in which a flush may turn out to be the peer's orderly end

_ERRORS: Final[dict[int, str]] = {
    WcStatus.LOC_LEN_ERR: "a message was longer than the receive posted for it",
    WcStatus.LOC_QP_OP_ERR: "the device refused a work request",
    WcStatus.LOC_PROT_ERR: "a work request named memory that is not registered",
    WcStatus.REM_INV_REQ_ERR: "the peer could not take a message (too long, or a key that it cannot invalidate)",
    WcStatus.REM_ACCESS_ERR: "the peer refused access to the memory that it had advertised",
    WcStatus.REM_OP_ERR: "the peer's device failed",
    WcStatus.RETRY_EXC_ERR: "the peer no longer answers",
    WcStatus.RNR_RETRY_EXC_ERR: "the peer posted no receive in time",
}


class Phase(Enum):
    """Where a connection is; the values go into messages."""

    INIT = "not connected"
    OPENING = "waiting for the peer"
    RTS = "connected"
    CLOSING = "disconnecting"
    ENDING = "being flushed"
    CLOSED = "closed"


class Lifetime(QueuePair):
    """A queue pair but for posting and completions: its parts, its phases, and who is told of its end."""

    def __init__(self, device: OpenDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, cap: QpCap) -> None:
        self.on_disconnect: Callable[[IserError | None], None] | None = None
        self.name = "unconnected"
        self.port = 1  # of the device, from 1
        self.phase = Phase.INIT
        self._device = device
        self._pd = pd
        self._cq = cq
        self._loop = asyncio.get_running_loop()
        credits = credits_of(device, cq, cap)
        self._raw, inline = make_raw(device, pd, cq, cap, credits)
        self.number: int = self._raw.qp_num
        self._requests = requests_for(device, pd, self._raw, inline)
        self._sends = SendQueue(device, pd, self._requests, credits, self._broken)
        self._receives = ReceiveQueue(device, pd, self._raw, cap.max_recv_wr)
        self._late = LateCompletions(cq)
        self._cm: CmId | None = None
        self._fault: IserError | None = None
        self._flushed = False
        self._interrupted = False  # flushed on the send side before anybody ended the connection
        self._reason: IserError | None = None
        self._peer_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self._settled = asyncio.Event()  # established, or never to be
        self._established = False

    def step(self, cm: CmId, state: int, *, served: int | None = None, wanted: int | None = None) -> None:
        """Bring the device's queue pair to ``state``; see :func:`iser.rdma.verbs.rawqp.bring`."""
        port = bring(self._raw, self._device.pyverbs, cm, state, served, wanted)
        if port is not None:
            self.port = port

    def prepare(self, cm: CmId, name: str) -> None:
        """Go to INIT and hand the receives to the device."""
        if self.phase is not Phase.INIT or self._cm is not None:
            raise LocalProtocolError(f"queue pair {self.name} is {self.phase.value}; create a new one")
        self._cm = cm
        self.name = self._sends.name = name
        self.step(cm, QPS_INIT)
        self._receives.start()

    def attach(self, read_depth: int, *, established: bool) -> None:
        """The device's queue pair may carry data, or will once the peer agrees, with ``read_depth`` reads at once."""
        assert self._cm is not None
        self._sends.read_credits = read_depth
        self._established = established
        self.phase = Phase.RTS if established or not self._device.is_iwarp else Phase.OPENING
        self._sends.open = self.phase is Phase.RTS
        self._cm.handle(self._on_cm_event)

    def established(self) -> None:
        """The peer agreed."""
        self._established = True
        self._settled.set()
        if self.phase is Phase.OPENING:
            self.phase = Phase.RTS
            self._sends.open = True
            self._sends.pump()

    async def wait_established(self) -> None:
        """Return when the peer agreed.  Raises ConnectionFailed when it will not."""
        await self._settled.wait()
        if not self._established:
            raise ConnectionFailed(f"{self.name} went away before it was accepted: {self._reason or 'it disconnected'}")

    def _heard(self) -> None:
        """A message came before the connection manager said so; RoCE wants to be told."""
        if self._cm is not None and not self._device.is_iwarp:
            try:
                self._cm.library.notify_established(self._cm.pointer, AsyncEvent.COMM_EST)
            except OSError as error:
                log.debug("%s: %s", self.name, error)
        self.established()

    def _on_cm_event(self, event: CmEvent) -> None:
        kind = event.type
        if kind is CmEventType.ESTABLISHED:
            self.established()
        elif kind is CmEventType.DISCONNECTED:
            self._peer_ended = True
            if self.phase is Phase.CLOSED:
                self._let_go()
                return
            self._cq.poll()
            if self.phase in (Phase.OPENING, Phase.RTS, Phase.CLOSING):
                self._end(self._orderly())
        elif kind is CmEventType.DEVICE_REMOVAL:
            self._device.removed = True
            self.abort(ConnectionLost(f"{self.name}: RDMA device {self._device.name} was removed"))
        elif kind in (CmEventType.CONNECT_ERROR, CmEventType.UNREACHABLE, CmEventType.REJECTED):
            self.abort(ConnectionLost(f"{self.name} went away before the connection was made ({kind.name.lower()})"))

    def _orderly(self) -> IserError | None:
        if self._fault is not None:
            return self._fault
        if self.phase is not Phase.CLOSING and (self._interrupted or self._sends.reads or self._sends.waiting):
            return ConnectionLost(f"{self.name} closed the connection in the middle of a transfer")
        return None

    def _failed(self, status: int, completion: Any) -> None:
        if self.phase in (Phase.ENDING, Phase.CLOSED):
            return
        self._flushed = True
        if status != WcStatus.WR_FLUSH_ERR and self._fault is None:
            what = _ERRORS.get(status, "the device reported an error")
            self._fault = ConnectionLost(f"{self.name}: {what} (status {status}, vendor {completion.vendor_err:#x})")

    def settle(self) -> None:
        """Called after each batch was handed on."""
        phase = self.phase
        if phase is Phase.ENDING:
            if not self._outstanding():
                self._loop.call_soon(self._finish)
            return
        if self._fault is not None:
            self._end(self._fault)
        elif self._flushed:
            # Most often the peer is closing and the connection manager will say so in a moment.
            if self._timer is None:
                self._timer = self._loop.call_later(GRACE, self._grace_over)
        elif phase is Phase.RTS or phase is Phase.CLOSING:
            if self._sends.backlog or self._sends.waiting:
                self._sends.pump()
            if phase is Phase.CLOSING:
                self._drain()

    def _outstanding(self) -> bool:
        return bool(self._sends.ring or self._sends.reads or self._receives.posted)

    def disconnect(self) -> None:
        if self.phase is Phase.INIT:
            self._end(None)
        elif self.phase in (Phase.RTS, Phase.OPENING):
            if self.phase is Phase.OPENING:
                self._end(None)
                return
            self.phase = Phase.CLOSING
            self._timer = self._loop.call_later(self._device.options.linger_timeout, self._end, None)
            self._drain()

    def _drain(self) -> None:
        if self._sends.drained():
            self._end(None)

    def abort(self, reason: IserError) -> None:
        if self.phase is not Phase.CLOSED and self.phase is not Phase.ENDING:
            self._end(reason)

    def _broken(self, error: IserError) -> None:
        """The device refused a post."""
        if self._fault is None:
            self._fault = error
            self._loop.call_soon(self.settle)

    def _grace_over(self) -> None:
        self._timer = None
        if self.phase in (Phase.RTS, Phase.OPENING, Phase.CLOSING):
            self._end(
                ConnectionLost(
                    f"{self.name}: the device ended the connection; the peer probably broke the rules of its memory"
                )
            )

    def _end(self, reason: IserError | None) -> None:
        """Stop, let the device flush, then :meth:`_finish`; always leaves the telling to the event loop."""
        if self.phase in (Phase.ENDING, Phase.CLOSED):
            return
        if reason is not None and not isinstance(reason, LocalProtocolError):
            log.info("%s", reason)
        self.phase = Phase.ENDING
        self._sends.open = False
        self._late.held = True
        self._reason = reason
        self._cancel_timer()
        if self._cm is not None:
            self._stop_device(self._cm)
        waits = self._outstanding() and self._cm is not None
        if waits:
            self._timer = self._loop.call_later(FLUSH_TIMEOUT, self._finish)
            self._loop.call_soon(self._poll_flushed)
        else:
            self._loop.call_soon(self._finish)

    def _stop_device(self, cm: CmId) -> None:
        try:
            # RoCE leaves an external queue pair as it is on disconnection.
            self._raw.modify(self._device.pyverbs.QPAttr(qp_state=QPS_ERR), QpAttrMask.STATE)
        except self._device.pyverbs.Error as error:
            log.debug("%s: %s", self.name, error)
        try:
            cm.library.disconnect(cm.pointer)
        except OSError as error:
            log.debug("%s: %s", self.name, error)

    def _poll_flushed(self) -> None:
        if self.phase is Phase.ENDING:
            self._cq.poll()
            self.settle()

    def _finish(self) -> None:
        """Flush what the device did not, free its queue pair, say once that the connection is over."""
        if self.phase is not Phase.ENDING:
            return
        self._cancel_timer()
        self.phase = Phase.CLOSED
        self._settled.set()
        self._destroy()
        batch = self._late.take()
        self._flush_rest(batch)
        try:
            self._cq.deliver(batch)
        finally:
            self._detach()
            if self.on_disconnect is not None:
                self.on_disconnect(self._reason)

    def _flush_rest(self, batch: list[WorkCompletion]) -> None:
        self._sends.flush(batch)
        self._receives.flush(batch)

    def _destroy(self) -> None:
        """Free the device's queue pair: from here on it touches no memory of ours."""
        try:
            self._raw.close()
        except self._device.pyverbs.Error as error:
            log.warning("%s", device_error(f"{self.name}: destroying a queue pair of {self._device.name}", error))
        self._requests.close()
        self._receives.close()

    def _detach(self) -> None:
        self._device.detach(self)
        self._cq.detach(self.number)
        self._pd.release()
        if self._cm is None or self._peer_ended:
            self._let_go()
        else:
            # The identifier has to live until the peer has answered, or it would never hear of the end.
            self._timer = self._loop.call_later(self._device.options.linger_timeout, self._let_go)

    def _let_go(self) -> None:
        self._cancel_timer()
        if self._cm is not None:
            self._cm.destroy()
            self._cm = None
        self._closed.set()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    async def close(self, timeout: float = 5.0) -> None:
        self.disconnect()
        try:
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        except TimeoutError:
            self.abort(ConnectionLost(f"{self.name} did not let the connection end within {timeout:g} s"))
            self._finish()
            self._let_go()

    def discard(self) -> None:
        """Free a queue pair that was never connected; nobody is told."""
        if self.phase is Phase.CLOSED:
            return
        self.on_disconnect = None
        self.phase = Phase.CLOSED
        self._sends.open = self._late.held = False
        self._cancel_timer()
        self._cm = None
        self._destroy()
        self._flush_rest([])
        self._detach()
