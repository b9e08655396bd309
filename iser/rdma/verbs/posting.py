"""From work requests to requests of the device: what is copied, what is gathered, what needs no request at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iser.errors import LocalProtocolError, MemoryRegionError
from iser.rdma.api import LocalInv, RdmaRead, RdmaWrite, RegMr, Send, WcStatus, WorkCompletion, WorkRequest
from iser.rdma.verbs.constants import (
    OP_RDMA_READ,
    OP_RDMA_WRITE,
    OP_SEND,
    OP_SEND_WITH_INV,
    SEND_INLINE,
    SEND_SIGNALED,
)
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.late import LateCompletions
from iser.rdma.verbs.memory import Hold, VerbsMemoryRegion, VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.rawqp import max_sge_of
from iser.rdma.verbs.request import INVALIDATE, OPCODES, REGISTER, Op, Requests
from iser.rdma.verbs.sendqueue import SendQueue
from iser.rdma.verbs.split import Element, split

__all__ = ["COPY_SEND", "Poster"]

COPY_SEND: Final = 16 << 10  # bytes of a Send that are copied into registered memory rather than gathered


class Poster:
    """Puts work requests of every kind into the send queue."""

    __slots__ = ("_late", "_max_sge", "_max_sge_rd", "_pd", "_requests", "_sends")

    def __init__(
        self,
        device: OpenDevice,
        pd: VerbsProtectionDomain,
        requests: Requests,
        sends: SendQueue,
        late: LateCompletions,
    ) -> None:
        self._pd = pd
        self._requests = requests
        self._sends = sends
        self._late = late
        self._max_sge = max_sge_of(device)
        self._max_sge_rd = min(device.attributes.max_sge_rd, self._max_sge)

    def post(self, wrs: Sequence[WorkRequest]) -> None:
        """Post them in order.

        Raises MemoryRegionError for memory or a region that does not do, LocalProtocolError for a read of a peer that
        serves none.
        """
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
        sends, requests, views = self._sends, self._requests, wr.sg
        length = len(views[0]) if len(views) == 1 else sum(map(len, views))
        op = Op(wr)
        opcode = OP_SEND_WITH_INV if wr.invalidate else OP_SEND
        flags = SEND_SIGNALED if wr.signaled else 0
        # siw takes inline data of plain Sends only: any other ends the connection.
        inline = 0 < length <= requests.inline and not wr.invalidate
        if inline and not sends.backlog and sends.credits and sends.open:
            _gather(views, requests.scratch.view)
            element = (requests.scratch.address, length, requests.scratch.lkey)
            sends.add(op, opcode, (element,), 0, 0, flags | SEND_INLINE)
            return
        if length <= COPY_SEND:
            elements: Sequence[Element] = self._copied(views, length, op.hold)
        else:
            elements = self._pd.elements(views, op.hold)
            if len(elements) > self._max_sge:
                self._pd.drop(op.hold)
                elements = self._copied(views, length, op.hold)
        sends.add(op, opcode, elements, 0, wr.invalidate, flags)

    def _post_write(self, wr: RdmaWrite) -> None:
        sends = self._sends
        op = Op(wr)
        length = sum(map(len, wr.sg))
        if length and self._pd.must_copy(wr.sg, length):
            elements: Sequence[Element] = self._copied(wr.sg, length, op.hold)
        else:
            elements = self._pd.elements(wr.sg, op.hold)
        flags = SEND_SIGNALED if wr.signaled else 0
        parts = split(elements, wr.remote_addr, self._max_sge)
        if len(parts) == 1:
            sends.add(op, OP_RDMA_WRITE, elements, wr.remote_addr, wr.rkey, flags)
            return
        sends.posted += 1
        op.parts = len(parts)
        for index, (group, remote) in enumerate(parts, 1):
            sends.queue((op, OP_RDMA_WRITE, group, remote, wr.rkey, flags if index == len(parts) else 0))

    def _post_read(self, wr: RdmaRead) -> None:
        if any(view.readonly for view in wr.sg):
            raise MemoryRegionError("an RDMA Read needs writable buffers")
        sends = self._sends
        if not sends.read_credits and not sends.reads:
            raise LocalProtocolError(f"{sends.name} serves no RDMA Reads; connect with an initiator_depth it accepts")
        op = Op(wr)
        elements = self._pd.elements(wr.sg, op.hold, sink=True)
        sends.posted += 1
        parts = split(elements, wr.remote_addr, self._max_sge_rd)
        op.parts = len(parts)
        for group, remote in parts:
            sends.waiting.append((op, OP_RDMA_READ, group, remote, wr.rkey, SEND_SIGNALED))
        sends.pump_reads()

    def _post_registration(self, wr: RegMr) -> None:
        region = wr.mr
        if isinstance(region, VerbsMemoryRegion):
            region.register(wr)
            self._completed_at_once(wr)
        elif isinstance(region, IndirectRegion):
            region.check(wr)
            region.register(wr)
            op = Op(wr)
            op.parts = region.requests()
            self._sends.posted += 1
            self._sends.queue((op, REGISTER, region.elements, op.parts, 0, SEND_SIGNALED if wr.signaled else 0))
        else:
            raise MemoryRegionError("the region belongs to another provider")

    def _post_invalidation(self, wr: LocalInv) -> None:
        region = self._pd.region_of(wr.rkey)
        if region is None:
            raise MemoryRegionError(f"cannot invalidate {wr.rkey:#010x}: no valid region of this domain has this key")
        if isinstance(region, IndirectRegion):
            self._sends.add(Op(wr), INVALIDATE, (), 0, wr.rkey, SEND_SIGNALED if wr.signaled else 0)
            region.invalidate()
        else:
            assert isinstance(region, VerbsMemoryRegion)
            region.invalidate()
            self._completed_at_once(wr)

    def _completed_at_once(self, wr: RegMr | LocalInv) -> None:
        """No device request carries this one out; whoever asked is told from the event loop."""
        if wr.signaled:
            self._late.add(WorkCompletion(wr.wr_id, WcStatus.SUCCESS, OPCODES[type(wr)], 0))

    def _copied(self, views: Sequence[memoryview], length: int, hold: Hold) -> Sequence[Element]:
        if not length:
            return ()
        slot = self._pd.take_slot(length)
        _gather(views, slot.view)
        hold.append(slot)
        return ((slot.address, length, slot.lkey),)


def _gather(views: Sequence[memoryview], target: memoryview) -> None:
    at = 0
    for view in views:
        end = at + len(view)
        target[at:end] = view
        at = end
