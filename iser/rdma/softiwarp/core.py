"""The protocol core of one connection: work requests and bytes in, completions and bytes out; no sockets, no clock.

The shell loops: :meth:`Core.get_buffers`, read into them, :meth:`Core.received`, hand :meth:`Core.take_completions` on,
then :meth:`Core.outgoing`, gather, :meth:`Core.sent`.  Once ``ended`` the connection is over: everything posted
has been flushed, and what is still to go out is at most the rest of one FPDU and a Terminate.

Order: Sends and Writes go out as posted.  A read that waits for the peer's read credit (ORD) holds back later reads and
nothing else; whoever needs a read done before a later Send waits for its completion, as with any RDMA device.
Completions of Sends and Writes come in order, those of reads when their data is here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from iser.errors import IserError, LocalProtocolError, MemoryRegionError, ResourceError, TerminateError, UsageError
from iser.rdma.api import (
    LocalInv,
    ProtectionDomain,
    QpCap,
    RdmaRead,
    RdmaWrite,
    RegMr,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
    WorkRequest,
)
from iser.rdma.softiwarp.memory import KeyTable, SoftMemoryRegion
from iser.rdma.softiwarp.rx import Receiver
from iser.rdma.softiwarp.tx import LocalDone, Mark, PendingRead, ReadResponse, Transmitter
from iser.rdma.softiwarp.wire import Fault, build_terminate, parse_terminate

__all__ = ["INTERNAL", "MAX_READ", "Core"]

_log = logging.getLogger("iser.rdma.softiwarp")

_OPCODES: Final[dict[type, WcOpcode]] = {
    Send: WcOpcode.SEND,
    RdmaWrite: WcOpcode.RDMA_WRITE,
    RdmaRead: WcOpcode.RDMA_READ,
    RegMr: WcOpcode.REG_MR,
    LocalInv: WcOpcode.LOCAL_INV,
}
MAX_READ: Final = (1 << 32) - 1  # bytes; the size field of a Read Request (RFC 5040 section 4.4)
_VARIANTS: Final = 256
#: ``wr_id`` of requests that the RNIC itself posts, unsignaled: nobody hears of their end.
INTERNAL: Final = object()
_SUCCESS: Final = WcStatus.SUCCESS
_new = tuple.__new__  # half the price of calling the NamedTuple


class Core:
    """See the module.  ``name`` is the peer in messages; ``error`` why it has ``ended``, None after an orderly end."""

    __slots__ = (
        "_cap",
        "_index",
        "_ird",
        "_keys",
        "_ord",
        "_pd",
        "_posted",
        "_reads_issued",
        "_serving",
        "_variant",
        "_waiting",
        "ended",
        "error",
        "name",
        "rx",
        "tx",
    )

    def __init__(self, keys: KeyTable, pd: ProtectionDomain, cap: QpCap) -> None:
        self._keys = keys
        self._pd = pd
        self._cap = cap
        self.name = "the peer"
        self.error: IserError | None = None
        self.ended = False
        self.rx = Receiver(self, keys, pd)
        self.tx = Transmitter()
        # The key that the responses of our reads name: an index of its own, which no region ever has.
        self._index = keys.reserve()
        self._variant = 0
        self._posted = 0  # send-side work requests that are not complete
        self._waiting: deque[PendingRead] = deque()  # reads without credit
        self._reads_issued = 0  # reads in the send queue or on the wire
        self._serving = 0  # reads of the peer whose response has not gone
        self._ird = self._ord = 0

    def start(self, *, ird: int, ord: int, crc: bool, segment: int, initiator: bool) -> None:
        """Begin the stream as agreed; ``segment`` is the largest ULPDU to send, in bytes.

        The responder sends nothing before the first FPDU of the initiator (RFC 5044 section 7.1.2).
        """
        self._ird, self._ord = ird, ord
        self.tx.crc = crc
        self.tx.segment = segment
        self.tx.held = not initiator
        self.rx.start(crc)

    # Local side.

    def post_recv(self, wr_id: object, buffer: memoryview) -> None:
        """See :meth:`iser.rdma.api.QueuePair.post_recv`."""
        receives = self.rx.receives
        if len(receives) >= self._cap.max_recv_wr:
            raise ResourceError(f"{len(receives)} receives are posted, the limit; raise max_recv_wr")
        if buffer.readonly:
            raise MemoryRegionError("a receive needs a writable buffer")
        receives.append((wr_id, buffer))

    def post_send(self, wrs: Sequence[WorkRequest]) -> None:
        """See :meth:`iser.rdma.api.QueuePair.post_send`; what stands before a faulty request has been posted."""
        if self._posted + len(wrs) > self._cap.max_send_wr:
            raise ResourceError(
                f"{self._posted} work requests are posted and {len(wrs)} more pass the limit; raise max_send_wr"
            )
        for wr in wrs:
            kind = type(wr)
            if kind is Send or kind is RdmaWrite:
                self._posted += 1
                self.tx.queue.append(wr)  # type: ignore[arg-type]  # kind is exact; isinstance costs more here
            elif kind is RegMr:
                self._register(wr)  # type: ignore[arg-type]  # likewise
            else:
                self._post_other(wr)

    def _register(self, wr: RegMr) -> None:
        # Carried out at once: nothing that is posted before can tell the difference, and errors reach the caller.
        mr = wr.mr
        if not isinstance(mr, SoftMemoryRegion) or mr.pd is not self._pd:
            raise MemoryRegionError("the region belongs to another protection domain or provider")
        mr.register(wr)
        if wr.signaled:
            self._post_done(wr)

    def _post_done(self, wr: RegMr | LocalInv) -> None:
        # Behind what was built before: then nobody touches the memory any more.
        self._posted += 1
        self.tx.queue.append(LocalDone(wr))

    def _post_other(self, wr: WorkRequest) -> None:
        if isinstance(wr, RdmaRead):
            self._post_read(wr)
            return
        assert isinstance(wr, LocalInv)
        self._invalidate(wr.rkey)  # at once, as a registration
        if wr.signaled:
            self._post_done(wr)

    def _invalidate(self, rkey: int) -> None:
        region = self._keys.regions.get(rkey >> 8)
        if region is None or region.rkey != rkey or not region.valid or region.pd is not self._pd:
            raise MemoryRegionError(f"cannot invalidate {rkey:#010x}: no valid region of this domain has this key")
        region.invalidate()

    def _post_read(self, wr: RdmaRead) -> None:
        if not self._ord:
            raise LocalProtocolError(f"{self.name} serves no RDMA Reads; connect with an initiator_depth it accepts")
        if any(view.readonly for view in wr.sg):
            raise MemoryRegionError("an RDMA Read needs writable buffers")
        total = sum(map(len, wr.sg))
        if total > MAX_READ:
            raise UsageError(f"an RDMA Read of {total} bytes; one request fetches at most {MAX_READ}")
        self._posted += 1
        self._variant = (self._variant + 1) % _VARIANTS
        read = PendingRead(wr, self._index << 8 | self._variant, total)
        if self._reads_issued < self._ord and not self._waiting:
            self._issue(read)
        else:
            self._waiting.append(read)

    def _issue(self, read: PendingRead) -> None:
        self._reads_issued += 1
        self.tx.queue.append(read)

    # The shell.

    def get_buffers(self) -> list[memoryview]:
        """See :meth:`Receiver.get_buffers`."""
        return self.rx.get_buffers()

    def received(self, count: int) -> None:
        """See :meth:`Receiver.received`."""
        self.rx.received(count)

    def feed(self, data: bytes | memoryview) -> None:
        """Receive ``data`` as if read from a socket; for peers without one."""
        self.rx.feed(memoryview(data))

    def outgoing(self) -> list[bytes | bytearray | memoryview]:
        """See :meth:`Transmitter.outgoing`."""
        tx = self.tx
        try:
            iov = tx.outgoing()
        except TerminateError as error:
            self.fail(error)
            iov = tx.outgoing()
        if not iov and tx.marks:
            self.sent(0)  # only local requests are left
        return iov

    def sent(self, count: int) -> None:
        """The socket took ``count`` bytes of what :meth:`outgoing` returned."""
        completions = self.rx.completions
        for item in self.tx.sent(count):
            kind = type(item)
            if kind is Send or kind is RdmaWrite:
                self._posted -= 1
                if item.signaled:  # type: ignore[union-attr]  # kind is exact
                    completions.append(
                        _new(WorkCompletion, (item.wr_id, _SUCCESS, _OPCODES[kind], 0, 0))  # type: ignore[union-attr]  # kind is exact
                    )
            else:
                self._passed(item)

    def _passed(self, item: Mark) -> None:
        if isinstance(item, ReadResponse):
            self._serving -= 1
        elif isinstance(item, PendingRead):
            self.rx.reads.append(item)
        elif isinstance(item, LocalDone):
            self._complete(item.wr, WcStatus.SUCCESS)

    def take_completions(self) -> list[WorkCompletion]:
        """The completions since the last call."""
        batch = self.rx.completions
        self.rx.completions = []
        return batch

    @property
    def reads_outstanding(self) -> int:
        """Reads posted whose data is not here."""
        return self._reads_issued + len(self._waiting)

    # Upcalls of the receiver.

    def heard(self) -> None:
        self.tx.held = False

    def may_serve(self) -> bool:
        return self._serving < self._ird

    def read_requested(self, response: ReadResponse) -> None:
        self._serving += 1
        self.tx.queue.append(response)

    def read_done(self) -> None:
        self._posted -= 1
        self._reads_issued -= 1
        if self._waiting:
            self._issue(self._waiting.popleft())

    def terminated(self, raw: bytes) -> None:
        message = parse_terminate(raw)
        _log.info(
            "%s sent a Terminate, raw bytes %s: %s or %s", self.name, raw.hex(), message.fault, message.alternative
        )
        self._stop(message.error(self.name), None)

    def failed(self, error: TerminateError, ulpdu: int, header: bytes) -> None:
        self.fail(error, ulpdu, header)

    # The end.

    def fail(self, error: TerminateError, ulpdu: int = 0, header: bytes = b"") -> None:
        """Flush everything and leave a Terminate to be sent."""
        what = Fault(error.layer, error.etype, error.code)
        _log.info("%s: %s; the connection ends", self.name, error)
        self._stop(error, build_terminate(what, ulpdu, header))

    def abort(self, error: IserError | None) -> None:
        """Flush everything; nothing more goes out.  ``error`` is None after an orderly end."""
        self._stop(error, None)

    def _stop(self, error: IserError | None, terminate: bytes | None) -> None:
        if self.ended:
            return
        self.ended = True
        self.error = error
        self.rx.stopped = True
        tx = self.tx
        unsent: list[Mark] = [item for _, item in tx.marks] + list(tx.queue)
        tx.cut(terminate)
        self._flush_sends(unsent)
        self._flush_receives()

    def _flush_sends(self, unsent: list[Mark]) -> None:
        for read in self.rx.reads:
            self._complete(read.wr, WcStatus.WR_FLUSH_ERR)
        self.rx.reads.clear()
        for item in unsent:
            if isinstance(item, Send | RdmaWrite):
                self._complete(item, WcStatus.WR_FLUSH_ERR)
            elif isinstance(item, PendingRead | LocalDone):
                self._complete(item.wr, WcStatus.WR_FLUSH_ERR)
        for read in self._waiting:
            self._complete(read.wr, WcStatus.WR_FLUSH_ERR)
        self._waiting.clear()
        self._reads_issued = self._serving = 0

    def _flush_receives(self) -> None:
        flushed, self.rx.receives = self.rx.receives, deque()
        half, self.rx.half_received = self.rx.half_received, None
        for wr_id, _ in (half, *flushed) if half is not None else flushed:
            self.flush_receive(wr_id)

    def _complete(self, wr: WorkRequest, status: WcStatus) -> None:
        self._posted -= 1
        if wr.wr_id is INTERNAL:
            return
        if wr.signaled or status is not WcStatus.SUCCESS:
            self.rx.completions.append(WorkCompletion(wr.wr_id, status, _OPCODES[type(wr)], 0))

    def flush_receive(self, wr_id: object) -> None:
        """A receive that was posted after the end."""
        self.rx.completions.append(WorkCompletion(wr_id, WcStatus.WR_FLUSH_ERR, WcOpcode.RECV, 0))

    def flush_posted(self, wrs: Sequence[WorkRequest]) -> None:
        """Requests that were posted after the end."""
        for wr in wrs:
            self._posted += 1
            self._complete(wr, WcStatus.WR_FLUSH_ERR)

    def close(self) -> None:
        """Give the key of our reads back.  Idempotent."""
        self._keys.release(self._index)
        self._index = 0
        self.rx.release()
