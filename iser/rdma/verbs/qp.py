"""The queue pair: our send queue in front of the device's, its completions, and a clean end.

The device's queue is short and holds back everything behind a read without credit, so what is posted waits here:
Sends, Writes and registrations in order, reads by themselves (as with softiwarp, who needs a read done before a later
Send waits for its completion).  Every few requests one asks for a completion, which stands for those before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from iser.errors import (
    ConnectionFailed,
    ConnectionLost,
    IserError,
    LocalProtocolError,
    MemoryRegionError,
    ResourceError,
)
from iser.rdma.api import (
    LocalInv,
    QpCap,
    QpState,
    QueuePair,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
    WorkRequest,
)
from iser.rdma.verbs.constants import (
    ACCESS_LOCAL_WRITE,
    ACCESS_REMOTE_READ,
    ACCESS_REMOTE_WRITE,
    OP_RDMA_READ,
    OP_RDMA_WRITE,
    OP_SEND,
    OP_SEND_WITH_INV,
    QPS_ERR,
    QPS_INIT,
    QPT_RC,
    SEND_INLINE,
    SEND_SIGNALED,
    WC_INVALIDATED,
    AsyncEvent,
    CmEventType,
    QpAttrMask,
)
from iser.rdma.verbs.cq import VerbsCompletionQueue
from iser.rdma.verbs.events import CmId
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.memory import Hold, Slot, VerbsMemoryRegion, VerbsProtectionDomain
from iser.rdma.verbs.mlx5 import INLINE_BYTES, IndirectRegion
from iser.rdma.verbs.options import FLUSH_TIMEOUT, MIN_SEND_DEPTH, SIGNAL_INTERVAL
from iser.rdma.verbs.rdmacm import CmEvent, QpAttr
from iser.rdma.verbs.split import Element, split

if TYPE_CHECKING:
    from iser.rdma.verbs.device import VerbsDevice

__all__ = ["COPY_SEND", "VerbsQueuePair"]

log = logging.getLogger("iser.rdma.verbs")

COPY_SEND: Final = 16 << 10  # bytes of a Send that are copied into registered memory rather than gathered
GRACE: Final = 0.25  # seconds in which a flush may turn out to be the peer's orderly end
MAX_SGE: Final = 32
_RNR_TIMER: Final = 12  # 0.64 ms until a peer tries again that found no receive; the CM's 0 means 655 ms

_OPCODES: Final[dict[type, WcOpcode]] = {
    Send: WcOpcode.SEND,
    RdmaWrite: WcOpcode.RDMA_WRITE,
    RdmaRead: WcOpcode.RDMA_READ,
    RegMr: WcOpcode.REG_MR,
    LocalInv: WcOpcode.LOCAL_INV,
}
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


class _Phase(Enum):
    INIT = "not connected"
    OPENING = "waiting for the peer"
    RTS = "connected"
    CLOSING = "disconnecting"
    ENDING = "being flushed"
    CLOSED = "closed"


class _Op:
    """A posted request; ``parts`` are its device requests that are not complete."""

    __slots__ = ("hold", "parts", "status", "wr")

    def __init__(self, wr: WorkRequest | None) -> None:
        self.wr = wr
        self.parts = 0
        self.hold: Hold = []
        self.status = WcStatus.SUCCESS


class _Receive:
    """A receive and its prebuilt request, kept for the next post of the same buffer."""

    __slots__ = ("buffer", "hold", "number", "user_id", "wr")

    def __init__(self, number: int, buffer: memoryview, wr: Any, hold: Hold) -> None:
        self.number = number
        self.buffer = buffer
        self.wr = wr
        self.hold = hold
        self.user_id: object = None


#: A device request that is ready to go: its operation, opcode, elements, remote address and key, and flags.
_Part = tuple[_Op, int, Sequence[Element], int, int, int]
_REGISTER: Final = -1  # opcodes of our own, for requests that mlx5 builds
_INVALIDATE: Final = -2


class VerbsQueuePair(QueuePair):
    """See :class:`iser.rdma.api.QueuePair`."""

    def __init__(  # noqa: PLR0915 - nothing but the state, each in a line
        self, device: VerbsDevice, pd: VerbsProtectionDomain, cq: VerbsCompletionQueue, cap: QpCap
    ) -> None:
        self.on_disconnect: Callable[[IserError | None], None] | None = None
        self.name = "unconnected"
        self.port = 1  # of the device, from 1
        self._device = device
        self._pd = pd
        self._cq = cq
        self._cap = cap
        attributes = device.attributes
        self._max_sge = min(attributes.max_sge, MAX_SGE)
        self._max_sge_rd = min(attributes.max_sge_rd, self._max_sge)
        wanted = max(MIN_SEND_DEPTH, min(device.options.send_depth, cap.max_send_wr))
        self._credits = min(wanted, attributes.max_qp_wr, cq.depth - cap.max_recv_wr)
        self._raw, self._inline = self._make()
        self.number: int = self._raw.qp_num
        pyverbs = device.pyverbs
        self._send_wr, self._recv_wr, self._error = pyverbs.SendWR, pyverbs.RecvWR, pyverbs.Error
        self._sges = [pyverbs.SGE(0, 0, 0) for _ in range(self._max_sge)]
        self._scratch: Slot = pd.take_slot(max(1, self._inline))
        self._nothing: Element = (self._scratch.address, 0, self._scratch.lkey)
        self._prebuilt: dict[int, Any] = {}  # inline Sends by length
        self._phase = _Phase.INIT
        self._loop = asyncio.get_running_loop()
        self._cm: CmId | None = None
        # The send side.
        self._sequence = 0
        self._unsignaled = 0
        self._ring: deque[tuple[int, _Op]] = deque()  # device requests but reads, in order
        self._reads: dict[int, _Op] = {}  # reads at the device
        self._backlog: deque[_Part] = deque()
        self._waiting: deque[_Part] = deque()  # reads without credit
        self._read_credits = 0
        self._posted = 0  # operations that are not known to be complete
        # Of silent ones the last few may be complete without our knowing.
        self._limit = cap.max_send_wr + SIGNAL_INTERVAL
        # The receive side.
        self._receives: dict[int, _Receive] = {}
        self._spare: dict[int, _Receive] = {}  # by id of the buffer, which they hold
        self._numbers = 0
        self._unposted: deque[_Receive] = deque()  # before INIT
        # The end.
        self._late: list[WorkCompletion] = []  # of our own making
        self._late_scheduled = False
        self._fault: IserError | None = None
        self._flushed = False
        self._interrupted = False  # flushed on the send side before anybody ended the connection
        self._reason: IserError | None = None
        self._marked = False
        self._peer_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self._settled = asyncio.Event()  # established, or never to be
        self._established = False
        cq.attach(self)
        pd.acquire()
        device.attach(self)

    def _make(self) -> tuple[Any, int]:
        """The device's queue pair and how much it takes inline: as asked, else nothing."""
        device, pyverbs = self._device, self._device.pyverbs
        problem: Exception | None = None
        inline = max(device.options.inline, INLINE_BYTES) if device.mlx5 else device.options.inline
        for size in (inline, min(inline, 76), 0):
            cap = pyverbs.QPCap(
                max_send_wr=self._credits,
                max_recv_wr=self._cap.max_recv_wr,
                max_send_sge=self._max_sge,
                max_recv_sge=1,
                max_inline_data=size,
            )
            try:
                if device.mlx5 is not None:
                    return device.mlx5.make_qp(self._pd.raw, self._cq.raw, cap), size
                init = pyverbs.QPInitAttr(qp_type=QPT_RC, scq=self._cq.raw, rcq=self._cq.raw, cap=cap, sq_sig_all=0)
                return pyverbs.QP(self._pd.raw, init), size
            except pyverbs.Error as error:
                problem = error
        assert problem is not None
        raise device_error(f"making a queue pair on {device.name}", problem) from problem

    # The connection manager's side.

    def step(self, cm: CmId, state: int, *, served: int | None = None, wanted: int | None = None) -> None:
        """Bring the device's queue pair to ``state`` as the connection manager says.

        ``served`` and ``wanted`` are the read depths, where the connection manager has only the peer's wishes.
        Raises OSError or pyverbs' own errors.
        """
        attr, mask = cm.library.init_qp_attr(cm.pointer, state)
        if state == QPS_INIT:
            # The active side is told 0, and the peer's first Write would end the connection.
            attr.qp_access_flags = ACCESS_LOCAL_WRITE | ACCESS_REMOTE_READ | ACCESS_REMOTE_WRITE
            mask |= QpAttrMask.ACCESS_FLAGS
        if mask & QpAttrMask.MIN_RNR_TIMER:
            attr.min_rnr_timer = _RNR_TIMER
        if served is not None and mask & QpAttrMask.MAX_DEST_RD_ATOMIC:
            attr.max_dest_rd_atomic = served
        if wanted is not None and mask & QpAttrMask.MAX_QP_RD_ATOMIC:
            attr.max_rd_atomic = wanted
        self.port = attr.port_num if mask & QpAttrMask.PORT else self.port
        self._raw.modify(_qp_attr(self._device.pyverbs, attr, mask), mask)

    def prepare(self, cm: CmId, name: str) -> None:
        """Go to INIT and hand the receives to the device."""
        if self._phase is not _Phase.INIT or self._cm is not None:
            raise LocalProtocolError(f"queue pair {self.name} is {self._phase.value}; create a new one")
        self._cm = cm
        self.name = name
        self.step(cm, QPS_INIT)
        while self._unposted:
            self._raw.post_recv(self._unposted.popleft().wr)

    def attach(self, read_depth: int, *, established: bool) -> None:
        """The device's queue pair may carry data, or will once the peer agrees, with ``read_depth`` reads at once."""
        assert self._cm is not None
        self._read_credits = read_depth
        self._established = established
        self._phase = _Phase.RTS if established or not self._device.is_iwarp else _Phase.OPENING
        self._cm.handle(self._on_cm_event)

    def established(self) -> None:
        """The peer agreed."""
        self._established = True
        self._settled.set()
        if self._phase is _Phase.OPENING:
            self._phase = _Phase.RTS
            self._pump()

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
            if self._phase is _Phase.CLOSED:
                self._let_go()
                return
            self._cq.poll()
            if self._phase in (_Phase.OPENING, _Phase.RTS, _Phase.CLOSING):
                self._end(self._orderly())
        elif kind is CmEventType.DEVICE_REMOVAL:
            self._device.removed = True
            self.abort(ConnectionLost(f"{self.name}: RDMA device {self._device.name} was removed"))
        elif kind in (CmEventType.CONNECT_ERROR, CmEventType.UNREACHABLE, CmEventType.REJECTED):
            self.abort(ConnectionLost(f"{self.name} went away before the connection was made ({kind.name.lower()})"))

    def _orderly(self) -> IserError | None:
        if self._fault is not None:
            return self._fault
        if self._phase is not _Phase.CLOSING and (self._interrupted or self._reads or self._waiting):
            return ConnectionLost(f"{self.name} closed the connection in the middle of a transfer")
        return None

    # Posting.

    @property
    def state(self) -> QpState:
        if self._phase is _Phase.INIT:
            return QpState.INIT
        return QpState.RTS if self._phase in (_Phase.RTS, _Phase.OPENING) else QpState.ERR

    def post_send(self, *wrs: WorkRequest) -> None:
        phase = self._phase
        if phase is _Phase.INIT:
            raise LocalProtocolError("the queue pair is not connected; only receives can be posted")
        if phase is not _Phase.RTS and phase is not _Phase.OPENING:
            for wr in wrs:
                self._late.append(WorkCompletion(wr.wr_id, WcStatus.WR_FLUSH_ERR, _OPCODES[type(wr)], 0))
            self._schedule_late()
            return
        if self._posted + len(wrs) > self._limit:
            raise ResourceError(
                f"{self._posted} work requests are posted and {len(wrs)} more pass the limit; raise max_send_wr"
            )
        for wr in wrs:
            kind = type(wr)
            if kind is Send:
                self._post_message(wr)  # type: ignore[arg-type]  # kind is exact
            elif kind is RdmaWrite:
                self._post_write(wr)  # type: ignore[arg-type]  # kind is exact
            elif kind is RdmaRead:
                self._post_read(wr)  # type: ignore[arg-type]  # kind is exact
            elif kind is RegMr:
                self._post_registration(wr)  # type: ignore[arg-type]  # kind is exact
            else:
                self._post_invalidation(wr)  # type: ignore[arg-type]  # kind is exact

    def _post_message(self, wr: Send) -> None:
        views = wr.sg
        length = len(views[0]) if len(views) == 1 else sum(map(len, views))
        op = _Op(wr)
        opcode = OP_SEND_WITH_INV if wr.invalidate else OP_SEND
        flags = SEND_SIGNALED if wr.signaled else 0
        # siw takes inline data of plain Sends only: any other ends the connection.
        inline = 0 < length <= self._inline and not wr.invalidate
        if inline and not self._backlog and self._credits and self._phase is _Phase.RTS:
            _gather(views, self._scratch.view)
            element = (self._scratch.address, length, self._scratch.lkey)
            self._post(op, ((element,),), opcode, 0, 0, flags | SEND_INLINE)
            return
        if length <= COPY_SEND:
            elements: Sequence[Element] = self._copied(views, length, op.hold)
        else:
            elements = self._pd.elements(views, op.hold)
            if len(elements) > self._max_sge:
                self._pd.drop(op.hold)
                elements = self._copied(views, length, op.hold)
        self._post(op, (elements,), opcode, 0, wr.invalidate, flags)

    def _post_write(self, wr: RdmaWrite) -> None:
        op = _Op(wr)
        length = sum(map(len, wr.sg))
        if length and self._pd.must_copy(wr.sg, length):
            elements: Sequence[Element] = self._copied(wr.sg, length, op.hold)
        else:
            elements = self._pd.elements(wr.sg, op.hold)
        flags = SEND_SIGNALED if wr.signaled else 0
        parts = split(elements, wr.remote_addr, self._max_sge)
        if len(parts) == 1:
            self._post(op, (elements,), OP_RDMA_WRITE, wr.remote_addr, wr.rkey, flags)
            return
        self._posted += 1
        op.parts = len(parts)
        for index, (group, remote) in enumerate(parts, 1):
            self._queue((op, OP_RDMA_WRITE, group, remote, wr.rkey, flags if index == len(parts) else 0))

    def _post_read(self, wr: RdmaRead) -> None:
        if any(view.readonly for view in wr.sg):
            raise MemoryRegionError("an RDMA Read needs writable buffers")
        if not self._read_credits and not self._reads:
            raise LocalProtocolError(f"{self.name} serves no RDMA Reads; connect with an initiator_depth it accepts")
        op = _Op(wr)
        elements = self._pd.elements(wr.sg, op.hold, sink=True)
        self._posted += 1
        parts = split(elements, wr.remote_addr, self._max_sge_rd)
        op.parts = len(parts)
        for group, remote in parts:
            self._waiting.append((op, OP_RDMA_READ, group, remote, wr.rkey, SEND_SIGNALED))
        if self._phase is _Phase.RTS:
            self._pump_reads()

    def _post_registration(self, wr: RegMr) -> None:
        region = wr.mr
        if isinstance(region, VerbsMemoryRegion):
            region.register(wr)
            self._completed_at_once(wr)
        elif isinstance(region, IndirectRegion):
            region.check(wr)
            region.register(wr)
            op = _Op(wr)
            op.parts = region.requests()
            self._posted += 1
            self._queue((op, _REGISTER, region.elements, op.parts, 0, SEND_SIGNALED if wr.signaled else 0))
        else:
            raise MemoryRegionError("the region belongs to another provider")

    def _post_invalidation(self, wr: LocalInv) -> None:
        region = self._pd.region_of(wr.rkey)
        if region is None:
            raise MemoryRegionError(f"cannot invalidate {wr.rkey:#010x}: no valid region of this domain has this key")
        if isinstance(region, IndirectRegion):
            op = _Op(wr)
            op.parts = 1
            self._posted += 1
            self._queue((op, _INVALIDATE, (), 0, wr.rkey, SEND_SIGNALED if wr.signaled else 0))
            region.invalidate()
        else:
            assert isinstance(region, VerbsMemoryRegion)
            region.invalidate()
            self._completed_at_once(wr)

    def _completed_at_once(self, wr: RegMr | LocalInv) -> None:
        """No device request carries this one out; whoever asked is told from the event loop."""
        if wr.signaled:
            self._late.append(WorkCompletion(wr.wr_id, WcStatus.SUCCESS, _OPCODES[type(wr)], 0))
            self._schedule_late()

    def _copied(self, views: Sequence[memoryview], length: int, hold: Hold) -> Sequence[Element]:
        if not length:
            return ()
        slot = self._pd.take_slot(length)
        _gather(views, slot.view)
        hold.append(slot)
        return ((slot.address, length, slot.lkey),)

    def _post(
        self, op: _Op, groups: Sequence[Sequence[Element]], opcode: int, remote: int, rkey: int, flags: int
    ) -> None:
        """Post an operation of one device request."""
        self._posted += 1
        op.parts = 1
        self._queue((op, opcode, groups[0], remote, rkey, flags))

    def _queue(self, part: _Part) -> None:
        if self._backlog or self._phase is not _Phase.RTS or not self._has_room(part):
            self._backlog.append(part)
        else:
            self._submit(part)

    def _has_room(self, part: _Part) -> bool:
        return self._credits >= (part[3] if part[1] == _REGISTER else 1)

    def _pump(self) -> None:
        """Hand to the device what has room there."""
        backlog = self._backlog
        while backlog and self._has_room(backlog[0]) and self._phase in (_Phase.RTS, _Phase.CLOSING):
            self._submit(backlog.popleft())
        self._pump_reads()

    def _pump_reads(self) -> None:
        waiting = self._waiting
        while waiting and self._read_credits and self._credits and self._phase in (_Phase.RTS, _Phase.CLOSING):
            self._read_credits -= 1
            self._submit(waiting.popleft())

    def _submit(self, part: _Part) -> None:
        """One request to the device."""
        op, opcode, elements, remote, rkey, flags = part
        self._sequence = sequence = self._sequence + 1
        if opcode == OP_RDMA_READ:
            # Its completion stands for itself only: on iWARP what was posted before may still be on its way.
            self._reads[sequence] = op
            self._credits -= 1
        else:
            self._unsignaled += 1
            if self._unsignaled >= SIGNAL_INTERVAL or flags & SEND_SIGNALED:
                flags |= SEND_SIGNALED
                self._unsignaled = 0
            self._ring.append((sequence, op))
            self._credits -= op.parts if opcode == _REGISTER else 1
        try:
            if opcode >= 0:
                self._post_wr(sequence << 1, opcode, elements, remote, rkey, flags)
            else:
                self._post_special(sequence << 1, part, flags)
        except self._error as error:
            # What was posted before may be fine, but the order that was asked for is lost.
            self._broken(device_error(f"{self.name}: posting to {self._device.name}", error))

    def _post_wr(
        self, wr_id: int, opcode: int, elements: Sequence[Element], remote: int, rkey: int, flags: int
    ) -> None:
        if flags & SEND_INLINE:
            length = elements[0][1]
            wr = self._prebuilt.get(length)
            if wr is None:
                self._fill(elements)
                wr = self._prebuilt[length] = self._send_wr(opcode=OP_SEND, num_sge=1, sg=self._sges[:1])
            wr.wr_id = wr_id
            wr.send_flags = flags
            self._raw.post_send(wr)
            return
        # pyverbs makes no request without an element.
        elements = elements or (self._nothing,)
        self._fill(elements)
        count = len(elements)
        wr = self._send_wr(
            wr_id=wr_id,
            opcode=opcode,
            num_sge=count,
            imm_data=rkey if opcode == OP_SEND_WITH_INV else 0,
            sg=self._sges[:count],
            send_flags=flags,
        )
        try:
            if opcode == OP_SEND_WITH_INV:
                wr.set_wr_rdma(rkey, 0)  # libsiw takes the key from there; others do not look
            elif opcode != OP_SEND:
                wr.set_wr_rdma(rkey, remote)
            self._raw.post_send(wr)
        finally:
            wr.close()

    def _fill(self, elements: Sequence[Element]) -> None:
        for sge, (address, length, lkey) in zip(self._sges, elements, strict=False):
            sge.addr = address
            sge.length = length
            sge.lkey = lkey

    def _post_special(self, wr_id: int, part: _Part, flags: int) -> None:
        wr = part[0].wr
        if part[1] == _REGISTER:
            assert isinstance(wr, RegMr)
            assert isinstance(wr.mr, IndirectRegion)
            wr.mr.post(self._raw, wr_id, int(wr.access), flags, part[2])
            return
        assert isinstance(wr, LocalInv)
        self._raw.wr_start()
        self._raw.wr_id = wr_id
        self._raw.wr_flags = flags
        self._raw.wr_local_inv(wr.rkey)
        self._raw.wr_complete()

    def post_recv(self, wr_id: object, buffer: memoryview) -> None:
        phase = self._phase
        if phase is _Phase.ENDING or phase is _Phase.CLOSED:
            self._late.append(WorkCompletion(wr_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0))
            self._schedule_late()
            return
        receive = self._spare.pop(id(buffer), None)
        if receive is None:
            receive = self._new_receive(buffer)
        receive.user_id = wr_id
        self._receives[receive.number] = receive
        if self._cm is None:
            self._unposted.append(receive)
            return
        try:
            self._raw.post_recv(receive.wr)
        except self._error as error:
            self._broken(device_error(f"{self.name}: posting a receive to {self._device.name}", error))

    def _new_receive(self, buffer: memoryview) -> _Receive:
        if len(self._receives) >= self._cap.max_recv_wr:
            raise ResourceError(f"{len(self._receives)} receives are posted, the limit; raise max_recv_wr")
        if buffer.readonly:
            raise MemoryRegionError("a receive needs a writable buffer")
        hold: Hold = []
        elements = self._pd.elements((buffer,), hold)
        if len(elements) > 1:
            self._pd.drop(hold)
            raise MemoryRegionError("a receive needs a buffer in one piece; use one of alloc_buffer()")
        self._numbers += 1
        self._fill(elements)
        wr = self._recv_wr(self._numbers << 1 | 1, len(elements), self._sges[: len(elements)])
        return _Receive(self._numbers, buffer, wr, hold)

    # Completions.

    def complete(self, completion: Any, batch: list[WorkCompletion]) -> None:
        """Take one completion of the device; what our user hears of it is added to ``batch``."""
        wr_id: int = completion.wr_id
        status: int = completion.status
        if wr_id & 1:
            self._complete_receive(wr_id >> 1, status, completion, batch)
        else:
            self._complete_send(wr_id >> 1, status, batch)
        if status:
            self._failed(status, completion)
            self._interrupted = self._interrupted or (not wr_id & 1 and self._phase is _Phase.RTS)

    def _complete_receive(self, number: int, status: int, completion: Any, batch: list[WorkCompletion]) -> None:
        receive = self._receives.pop(number)
        self._spare[id(receive.buffer)] = receive
        if status:
            batch.append(WorkCompletion(receive.user_id, _status(status), WcOpcode.RECV, 0))
            return
        invalidated = 0
        if completion.wc_flags & WC_INVALIDATED:
            invalidated = self._invalidated(completion.imm_data)
        batch.append(WorkCompletion(receive.user_id, WcStatus.SUCCESS, WcOpcode.RECV, completion.byte_len, invalidated))
        if not self._established:
            self._heard()

    def _invalidated(self, rkey: int) -> int:
        region = self._pd.region_of(rkey)
        if isinstance(region, IndirectRegion):
            region.invalidate()
        return rkey

    def _complete_send(self, sequence: int, status: int, batch: list[WorkCompletion]) -> None:
        op = self._reads.pop(sequence, None)
        if op is not None:
            self._credits += 1
            self._read_credits += 1
            self._part_done(op, _status(status), batch)
            return
        ring = self._ring
        while ring and ring[0][0] <= sequence:
            number, op = ring.popleft()
            weight = op.parts if type(op.wr) is RegMr else 1
            self._credits += weight
            if weight > 1:
                op.parts = 1
            # Requests complete in order: what stands before one that failed did not.
            self._part_done(op, _status(status) if number == sequence else WcStatus.SUCCESS, batch)

    def _part_done(self, op: _Op, status: WcStatus, batch: list[WorkCompletion]) -> None:
        op.parts -= 1
        if status and not op.status:
            op.status = status
        if op.parts:
            return
        self._posted -= 1
        if op.hold:
            self._pd.drop(op.hold)
        wr = op.wr
        if wr is not None and (op.status or wr.signaled):
            length = sum(map(len, wr.sg)) if type(wr) is RdmaRead and not op.status else 0
            batch.append(WorkCompletion(wr.wr_id, op.status, _OPCODES[type(wr)], length))

    def _failed(self, status: int, completion: Any) -> None:
        if self._phase in (_Phase.ENDING, _Phase.CLOSED):
            return
        self._flushed = True
        if status != WcStatus.WR_FLUSH_ERR and self._fault is None:
            what = _ERRORS.get(status, "the device reported an error")
            self._fault = ConnectionLost(f"{self.name}: {what} (status {status}, vendor {completion.vendor_err:#x})")

    def settle(self) -> None:
        """Called after each batch was handed on."""
        phase = self._phase
        if phase is _Phase.ENDING:
            if not self._outstanding():
                self._loop.call_soon(self._finish)
            return
        if self._fault is not None:
            self._end(self._fault)
        elif self._flushed:
            # Most often the peer is closing and the connection manager will say so in a moment.
            if self._timer is None:
                self._timer = self._loop.call_later(GRACE, self._grace_over)
        elif phase is _Phase.RTS or phase is _Phase.CLOSING:
            if self._backlog or self._waiting:
                self._pump()
            if phase is _Phase.CLOSING:
                self._drain()

    def _outstanding(self) -> bool:
        return bool(self._ring or self._reads or self._receives)

    def _schedule_late(self) -> None:
        if not self._late_scheduled and self._phase is not _Phase.ENDING:
            self._late_scheduled = True
            self._loop.call_soon(self._deliver_late)

    def _deliver_late(self) -> None:
        self._late_scheduled = False
        if self._phase is not _Phase.ENDING:
            late, self._late = self._late, []
            self._cq.deliver(late)

    # The end.

    def disconnect(self) -> None:
        if self._phase is _Phase.INIT:
            self._end(None)
        elif self._phase in (_Phase.RTS, _Phase.OPENING):
            if self._phase is _Phase.OPENING:
                self._end(None)
                return
            self._phase = _Phase.CLOSING
            self._timer = self._loop.call_later(self._device.options.linger_timeout, self._end, None)
            self._drain()

    def _drain(self) -> None:
        """End once everything that was posted has gone out."""
        if self._backlog or self._waiting or self._reads:
            return
        if not self._ring:
            self._end(None)
        elif not self._marked and self._credits:
            # The last requests may not tell when they are done: let an empty Write tell it.
            self._marked = True
            op = _Op(None)
            op.parts = 1
            self._posted += 1
            self._submit((op, OP_RDMA_WRITE, (), 0, 0, SEND_SIGNALED))

    def abort(self, reason: IserError) -> None:
        if self._phase is not _Phase.CLOSED and self._phase is not _Phase.ENDING:
            self._end(reason)

    def _broken(self, error: IserError) -> None:
        """The device refused a post."""
        if self._fault is None:
            self._fault = error
            self._loop.call_soon(self.settle)

    def _grace_over(self) -> None:
        self._timer = None
        if self._phase in (_Phase.RTS, _Phase.OPENING, _Phase.CLOSING):
            self._end(
                ConnectionLost(
                    f"{self.name}: the device ended the connection; the peer probably broke the rules of its memory"
                )
            )

    def _end(self, reason: IserError | None) -> None:
        """Stop, let the device flush, then :meth:`_finish`; always leaves the telling to the event loop."""
        if self._phase in (_Phase.ENDING, _Phase.CLOSED):
            return
        if reason is not None and not isinstance(reason, LocalProtocolError):
            log.info("%s", reason)
        self._phase = _Phase.ENDING
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
        except self._error as error:
            log.debug("%s: %s", self.name, error)
        try:
            cm.library.disconnect(cm.pointer)
        except OSError as error:
            log.debug("%s: %s", self.name, error)

    def _poll_flushed(self) -> None:
        if self._phase is _Phase.ENDING:
            self._cq.poll()
            self.settle()

    def _finish(self) -> None:
        """Flush what the device did not, free its queue pair, say once that the connection is over."""
        if self._phase is not _Phase.ENDING:
            return
        self._cancel_timer()
        self._phase = _Phase.CLOSED
        self._settled.set()
        self._destroy()
        batch = self._late
        self._late = []
        self._flush_rest(batch)
        try:
            self._cq.deliver(batch)
        finally:
            self._detach()
            if self.on_disconnect is not None:
                self.on_disconnect(self._reason)

    def _flush_rest(self, batch: list[WorkCompletion]) -> None:
        left = [op for _, op in self._ring] + list(self._reads.values())
        left += [part[0] for part in (*self._backlog, *self._waiting)]
        for op in dict.fromkeys(left):
            op.parts = 1
            self._part_done(op, WcStatus.WR_FLUSH_ERR, batch)
        batch += [
            WorkCompletion(receive.user_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0)
            for receive in self._receives.values()
        ]
        for queue in (self._ring, self._reads, self._backlog, self._waiting, self._unposted):
            queue.clear()

    def _destroy(self) -> None:
        """Free the device's queue pair: from here on it touches no memory of ours."""
        try:
            self._raw.close()
        except self._error as error:
            log.warning("%s", device_error(f"{self.name}: destroying a queue pair of {self._device.name}", error))
        for wr in self._prebuilt.values():
            wr.close()
        for sge in self._sges:
            sge.close()
        for receive in (*self._receives.values(), *self._spare.values()):
            receive.wr.close()
            self._pd.drop(receive.hold)
        self._prebuilt.clear()
        self._sges.clear()
        self._spare.clear()

    def _detach(self) -> None:
        self._receives.clear()
        self._device.detach(self)
        self._cq.detach(self)
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
        if self._phase is _Phase.CLOSED:
            return
        self.on_disconnect = None
        self._phase = _Phase.CLOSED
        self._cancel_timer()
        self._cm = None
        self._destroy()
        self._flush_rest([])
        self._detach()


def _gather(views: Sequence[memoryview], target: memoryview) -> None:
    at = 0
    for view in views:
        end = at + len(view)
        target[at:end] = view
        at = end


def _status(number: int) -> WcStatus:
    try:
        return WcStatus(number)
    except ValueError:
        return WcStatus.GENERAL_ERR


def _qp_attr(pyverbs: Any, attr: QpAttr, mask: int) -> Any:
    """The attributes in pyverbs' form."""
    result = pyverbs.QPAttr(qp_state=attr.qp_state)
    for name in _COPIED:
        setattr(result, name, getattr(attr, name))
    if mask & QpAttrMask.AV:
        ah = attr.ah_attr
        raw = bytes(ah)[:16].hex()
        route = pyverbs.GlobalRoute(
            dgid=pyverbs.GID(":".join(raw[at : at + 4] for at in range(0, 32, 4))),
            flow_label=ah.flow_label,
            sgid_index=ah.sgid_index,
            hop_limit=ah.hop_limit,
            traffic_class=ah.traffic_class,
        )
        result.ah_attr = pyverbs.AHAttr(
            dlid=ah.dlid,
            sl=ah.sl,
            src_path_bits=ah.src_path_bits,
            static_rate=ah.static_rate,
            is_global=ah.is_global,
            port_num=ah.port_num,
            gr=route,
        )
    return result


_COPIED: Final = (
    "cur_qp_state",
    "path_mtu",
    "path_mig_state",
    "qkey",
    "rq_psn",
    "sq_psn",
    "dest_qp_num",
    "qp_access_flags",
    "pkey_index",
    "max_rd_atomic",
    "max_dest_rd_atomic",
    "min_rnr_timer",
    "port_num",
    "timeout",
    "retry_cnt",
    "rnr_retry",
)
