"""Requests to the device: what one is made of, and how it is posted through pyverbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from iser.rdma.api import LocalInv, RdmaRead, RdmaWrite, RegMr, Send, WcOpcode, WcStatus, WorkRequest
from iser.rdma.verbs.constants import OP_RDMA_WRITE, OP_SEND, OP_SEND_WITH_INV, SEND_INLINE
from iser.rdma.verbs.indirect import IndirectRegion
from iser.rdma.verbs.memory import Hold, Slot, VerbsProtectionDomain
from iser.rdma.verbs.opened import OpenDevice
from iser.rdma.verbs.rawqp import max_sge_of
from iser.rdma.verbs.split import Element

__all__ = [
    "INVALIDATE",
    "OPCODES",
    "REGISTER",
    "InPlaceRequests",
    "Op",
    "Part",
    "Requests",
    "requests_for",
    "status_of",
]

OPCODES: Final[dict[type, WcOpcode]] = {
    Send: WcOpcode.SEND,
    RdmaWrite: WcOpcode.RDMA_WRITE,
    RdmaRead: WcOpcode.RDMA_READ,
    RegMr: WcOpcode.REG_MR,
    LocalInv: WcOpcode.LOCAL_INV,
}
REGISTER: Final = -1  # opcodes of our own, for requests that mlx5 builds
INVALIDATE: Final = -2


class Op:
    """A posted request; ``parts`` are its device requests that are not complete."""

    __slots__ = ("hold", "parts", "status", "wr")

    def __init__(self, wr: WorkRequest | None) -> None:
        self.wr = wr
        self.parts = 0
        self.hold: Hold = []
        self.status = WcStatus.SUCCESS


#: A device request that is ready to go: its operation, opcode, elements, remote address and key, and flags.
Part = tuple[Op, int, Sequence[Element], int, int, int]


class Requests:
    """Builds requests and posts them to the device's queue pair ``raw``, which takes ``inline`` bytes inline.

    All raise pyverbs' own errors.
    """

    __slots__ = ("_make", "_nothing", "_prebuilt", "_raw", "_sges", "inline", "scratch")

    def __init__(self, device: OpenDevice, pd: VerbsProtectionDomain, raw: Any, inline: int) -> None:
        pyverbs = device.pyverbs
        self.inline = inline
        self._raw = raw
        self._make = pyverbs.SendWR
        self._sges = [pyverbs.SGE(0, 0, 0) for _ in range(max_sge_of(device))]
        self.scratch: Slot = pd.take_slot(max(1, inline))
        self._nothing: Element = (self.scratch.address, 0, self.scratch.lkey)
        self._prebuilt: dict[int, Any] = {}  # inline Sends by length

    def post(self, wr_id: int, opcode: int, elements: Sequence[Element], remote: int, rkey: int, flags: int) -> None:
        """Post a Send, Write or Read."""
        if flags & SEND_INLINE:
            length = elements[0][1]
            wr = self._prebuilt.get(length)
            if wr is None:
                self._fill(elements)
                wr = self._prebuilt[length] = self._make(opcode=OP_SEND, num_sge=1, sg=self._sges[:1])
            wr.wr_id = wr_id
            wr.send_flags = flags
            self._raw.post_send(wr)
            return
        # pyverbs makes no request without an element.
        elements = elements or (self._nothing,)
        self._fill(elements)
        count = len(elements)
        wr = self._make(
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

    def post_special(self, wr_id: int, part: Part, flags: int) -> None:
        """Post a registration or an invalidation."""
        wr = part[0].wr
        if part[1] == REGISTER:
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

    def close(self) -> None:
        """Free what requests were built of."""
        for wr in self._prebuilt.values():
            wr.close()
        for sge in self._sges:
            sge.close()
        self._prebuilt.clear()
        self._sges.clear()

    def _fill(self, elements: Sequence[Element]) -> None:
        for sge, (address, length, lkey) in zip(self._sges, elements, strict=False):
            sge.addr = address
            sge.length = length
            sge.lkey = lkey


class InPlaceRequests(Requests):
    """Builds those of one element in the device's own queue, by the calls ``ibv_wr_*``.

    pyverbs' request objects cost more than all else that a request of ours takes: each copies its elements and asks
    :mod:`logging` for a logger, twice.  Requests of several elements still take them: for those rxe's
    ``ibv_wr_set_sge_list`` counts the length of the first over and over (rdma-core of 2026 and before).
    """

    __slots__ = ()

    def post(self, wr_id: int, opcode: int, elements: Sequence[Element], remote: int, rkey: int, flags: int) -> None:
        """Post a Send, Write or Read."""
        if len(elements) != 1:
            super().post(wr_id, opcode, elements, remote, rkey, flags)
            return
        raw = self._raw
        raw.wr_start()
        try:
            raw.wr_id = wr_id
            raw.wr_flags = flags
            if opcode == OP_RDMA_WRITE:
                raw.wr_rdma_write(rkey, remote)
            elif opcode == OP_SEND:
                raw.wr_send()
            elif opcode == OP_SEND_WITH_INV:
                raw.wr_send_inv(rkey)
            else:
                raw.wr_rdma_read(rkey, remote)
            if flags & SEND_INLINE:
                address, length, _ = elements[0]
                raw.wr_set_inline_data(address, length)
            else:
                self._fill(elements)
                raw.wr_set_sge(self._sges[0])
        except BaseException:
            raw.wr_abort()  # between start and complete the provider holds its lock
            raise
        raw.wr_complete()


def requests_for(device: OpenDevice, pd: VerbsProtectionDomain, raw: Any, inline: int) -> Requests:
    """What suits the queue pair."""
    in_place = device.mlx5 is None and isinstance(raw, device.pyverbs.QPEx)
    return (InPlaceRequests if in_place else Requests)(device, pd, raw, inline)


def status_of(number: int) -> WcStatus:
    """A status as the device gives it."""
    try:
        return WcStatus(number)
    except ValueError:
        return WcStatus.GENERAL_ERR
