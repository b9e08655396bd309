"""The send queue in front of the device's: order, credits, and what completes.

A completion stands for the requests before it as well; a read's only for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from iser.errors import IserError
from iser.rdma.api import RdmaRead, RegMr, WcStatus, WorkCompletion
from iser.rdma.verbs.constants import OP_RDMA_READ, OP_RDMA_WRITE, SEND_SIGNALED
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.memory import VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.options import SIGNAL_INTERVAL
from iser.rdma.verbs.request import OPCODES, REGISTER, Op, Part, Requests, status_of
from iser.rdma.verbs.split import Element

__all__ = ["SendQueue"]


class SendQueue:
    """What is posted, from the request to its completion.

    ``open`` says whether the device may be given requests.  ``broken`` is told when it refuses one.
    """

    __slots__ = (
        "_broken",
        "_device",
        "_marked",
        "_pd",
        "_requests",
        "_sequence",
        "_unsignaled",
        "backlog",
        "credits",
        "name",
        "open",
        "posted",
        "read_credits",
        "reads",
        "ring",
        "waiting",
    )

    def __init__(
        self,
        device: OpenDevice,
        pd: VerbsProtectionDomain,
        requests: Requests,
        credits: int,
        broken: Callable[[IserError], None],
    ) -> None:
        self.name = "unconnected"
        self.open = False
        self._device = device
        self._pd = pd
        self._requests = requests
        self._broken = broken
        self._sequence = 0
        self._unsignaled = 0
        self._marked = False
        self.credits = credits
        self.read_credits = 0
        self.ring: deque[tuple[int, Op]] = deque()  # device requests but reads, in order
        self.reads: dict[int, Op] = {}  # reads at the device
        self.backlog: deque[Part] = deque()
        self.waiting: deque[Part] = deque()  # reads without credit
        self.posted = 0  # operations that are not known to be complete

    def add(self, op: Op, opcode: int, elements: Sequence[Element], remote: int, rkey: int, flags: int) -> None:
        """Queue an operation of one device request."""
        self.posted += 1
        op.parts = 1
        self.queue((op, opcode, elements, remote, rkey, flags))

    def queue(self, part: Part) -> None:
        """Hand a request to the device, or keep it until there is room."""
        if self.backlog or not self.open or not self._has_room(part):
            self.backlog.append(part)
        else:
            self._submit(part)

    def _has_room(self, part: Part) -> bool:
        return self.credits >= (part[3] if part[1] == REGISTER else 1)

    def pump(self) -> None:
        """Hand to the device what has room there."""
        backlog = self.backlog
        while backlog and self._has_room(backlog[0]) and self.open:
            self._submit(backlog.popleft())
        self.pump_reads()

    def pump_reads(self) -> None:
        """Hand to the device the reads that the peer serves at once."""
        waiting = self.waiting
        while waiting and self.read_credits and self.credits and self.open:
            self.read_credits -= 1
            self._submit(waiting.popleft())

    def _submit(self, part: Part) -> None:
        """One request to the device."""
        op, opcode, elements, remote, rkey, flags = part
        self._sequence = sequence = self._sequence + 1
        if opcode == OP_RDMA_READ:
            # Its completion stands for itself only: on iWARP what was posted before may still be on its way.
            self.reads[sequence] = op
            self.credits -= 1
        else:
            self._unsignaled += 1
            if self._unsignaled >= SIGNAL_INTERVAL or flags & SEND_SIGNALED:
                flags |= SEND_SIGNALED
                self._unsignaled = 0
            self.ring.append((sequence, op))
            self.credits -= op.parts if opcode == REGISTER else 1
        try:
            if opcode >= 0:
                self._requests.post(sequence << 1, opcode, elements, remote, rkey, flags)
            else:
                self._requests.post_special(sequence << 1, part, flags)
        except self._device.pyverbs.Error as error:
            _never_registered(op)
            # What was posted before may be fine, but the order that was asked for is lost.
            self._broken(device_error(f"{self.name}: posting to {self._device.name}", error))

    def complete(self, sequence: int, status: int, batch: list[WorkCompletion]) -> None:
        """The device carried out request ``sequence``; what our user hears of it is added to ``batch``."""
        op = self.reads.pop(sequence, None)
        if op is not None:
            self.credits += 1
            self.read_credits += 1
            self._part_done(op, status_of(status), batch)
            return
        ring = self.ring
        while ring and ring[0][0] <= sequence:
            number, op = ring.popleft()
            weight = op.parts if type(op.wr) is RegMr else 1
            self.credits += weight
            if weight > 1:
                op.parts = 1
            # Requests complete in order: what stands before one that failed did not.
            self._part_done(op, status_of(status) if number == sequence else WcStatus.SUCCESS, batch)

    def _part_done(self, op: Op, status: WcStatus, batch: list[WorkCompletion]) -> None:
        op.parts -= 1
        if status and not op.status:
            op.status = status
        if op.parts:
            return
        self.posted -= 1
        if op.hold:
            self._pd.drop(op.hold)
        wr = op.wr
        if wr is not None and (op.status or wr.signaled):
            length = sum(map(len, wr.sg)) if type(wr) is RdmaRead and not op.status else 0
            batch.append(WorkCompletion(wr.wr_id, op.status, OPCODES[type(wr)], length))

    def drained(self) -> bool:
        """True once everything that was posted has gone out; else it will be told by a completion."""
        if self.backlog or self.waiting or self.reads:
            return False
        if not self.ring:
            return True
        if not self._marked and self.credits:
            # The last requests may not tell when they are done: let an empty Write tell it.
            self._marked = True
            op = Op(None)
            op.parts = 1
            self.posted += 1
            self._submit((op, OP_RDMA_WRITE, (), 0, 0, SEND_SIGNALED))
        return False

    def flush(self, batch: list[WorkCompletion]) -> None:
        """Complete what the device did not, and forget it."""
        for part in self.backlog:
            _never_registered(part[0])
        left = [op for _, op in self.ring] + list(self.reads.values())
        left += [part[0] for part in (*self.backlog, *self.waiting)]
        for op in dict.fromkeys(left):
            op.parts = 1
            self._part_done(op, WcStatus.WR_FLUSH_ERR, batch)
        for queue in (self.ring, self.reads, self.backlog, self.waiting):
            queue.clear()


def _never_registered(op: Op) -> None:
    """The device never had this request: a region that it should have registered is not valid.

    One that the device had may well be: it stays so until its key is invalidated or destroyed.
    """
    if type(op.wr) is RegMr and isinstance(op.wr.mr, IndirectRegion):
        op.wr.mr.invalidate()
