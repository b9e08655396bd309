"""A stand-in for pyverbs on a machine without RDMA: it registers, posts and completes nothing by itself.

The classes take what pyverbs' own take and refuse what they refuse; tests look at what was posted and complete it.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from itertools import count
from types import SimpleNamespace

from iser.rdma.verbs.events import CmId
from iser.rdma.verbs.rdmacm import QpAttr


class FakeError(Exception):
    """PyverbsError."""


class FakeRdmaError(FakeError):
    """PyverbsRDMAError."""

    def __init__(self, message: str, error_code: int) -> None:
        super().__init__(message)
        self.error_code = error_code


class FakeContext:
    limits: dict[str, int] = {}  # noqa: RUF012 - set by the fixture, read by the class
    memlock = 1 << 40
    pinned = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def query_device(self) -> SimpleNamespace:
        defaults = {
            "max_qp_wr": 1024, "max_sge": 4, "max_sge_rd": 1, "max_cqe": 4096, "max_mr_size": 1 << 40,
            "max_qp_rd_atom": 16, "max_qp_init_rd_atom": 16, "device_cap_flags": 1 << 21,
        }  # fmt: skip
        return SimpleNamespace(**(defaults | self.limits))

    def close(self) -> None:
        self.name = ""


class FakePD:
    def __init__(self, context: FakeContext) -> None:
        self.context = context
        self.live: set[FakeMR] = set()
        self.closed = False

    def close(self) -> None:
        assert not self.live, "the domain is closed under live regions"
        self.closed = True


class FakeMR:
    _keys = count(0x100)

    def __init__(self, pd: FakePD, length: int, access: int, address: int) -> None:
        if FakeContext.pinned + length > FakeContext.memlock:
            raise FakeRdmaError("Failed to register a MR", 12)
        FakeContext.pinned += length
        self.pd, self.length, self.access, self.address = pd, length, access, address
        self.lkey = self.rkey = next(self._keys)
        pd.live.add(self)

    def close(self) -> None:
        assert self in self.pd.live, "closed twice"
        self.pd.live.remove(self)
        FakeContext.pinned -= self.length


class FakeChannel:
    def __init__(self, context: FakeContext) -> None:
        self.fd, self._writer = os.pipe()

    def get_cq_event(self, cq: FakeCQ) -> None:
        os.read(self.fd, 1)

    def wake(self) -> None:
        os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)


class FakeCQ:
    def __init__(self, context: FakeContext, cqe: int, cq_context: None, channel: FakeChannel, vector: int) -> None:
        self.cqe, self.channel = cqe, channel
        self.queue: deque[SimpleNamespace] = deque()
        self.closed = False

    def req_notify(self) -> None:
        assert not self.closed

    def poll(self, num_entries: int) -> tuple[int, list[SimpleNamespace]]:
        assert not self.closed
        taken = [self.queue.popleft() for _ in range(min(num_entries, len(self.queue)))]
        return len(taken), taken

    def close(self) -> None:
        self.closed = True


class FakeSGE:
    def __init__(self, addr: int, length: int, lkey: int) -> None:
        self.addr, self.length, self.lkey = addr, length, lkey
        self._open = True

    def close(self) -> None:
        assert self._open, "closed twice, which ends the process"
        self._open = False


class FakeWR:
    def __init__(
        self,
        wr_id: int = 0,
        opcode: int = 2,
        num_sge: int = 0,
        imm_data: int = 0,
        send_flags: int = 2,
        sg: list[FakeSGE] | None = None,
    ) -> None:
        if sg is not None and num_sge < 1:
            raise FakeError("A WR needs at least one SGE")
        self.wr_id, self.opcode, self.imm_data, self.send_flags = wr_id, opcode, imm_data, send_flags
        self.elements = tuple((sge.addr, sge.length, sge.lkey) for sge in (sg or [])[:num_sge])
        self.remote = (0, 0)
        self._open = True

    def set_wr_rdma(self, rkey: int, addr: int) -> None:
        self.remote = (rkey, addr)

    def close(self) -> None:
        assert self._open, "closed twice, which ends the process"
        self._open = False


class FakeRecvWR(FakeWR):
    def __init__(self, wr_id: int, num_sge: int, sg: list[FakeSGE]) -> None:
        super().__init__(wr_id, num_sge=num_sge, sg=sg)


class Posted(SimpleNamespace):
    """A copy of a send request, as the device takes one."""

    wr_id: int
    opcode: int
    flags: int
    elements: tuple[tuple[int, int, int], ...]
    rkey: int
    remote: int
    invalidate: int


class FakeQP:
    _numbers = count(17)
    max_inline = 80

    def __init__(self, pd: FakePD, init: SimpleNamespace) -> None:
        if init.cap.max_inline_data > self.max_inline:
            raise FakeRdmaError("Failed to create QP", 22)
        self.pd, self.init = pd, init
        self.qp_num = next(self._numbers)
        self.sends: list[Posted] = []
        self.receives: list[FakeWR] = []
        self.states: list[int] = []
        self.refuse = False
        self.closed = False

    def post_send(self, wr: FakeWR) -> None:
        if self.refuse:
            raise FakeRdmaError("Failed to post send", 12)
        assert wr._open
        assert len(wr.elements) <= self.init.cap.max_send_sge
        rkey, remote = wr.remote
        self.sends.append(
            Posted(
                wr_id=wr.wr_id, opcode=wr.opcode, flags=wr.send_flags, elements=wr.elements, rkey=rkey, remote=remote,
                invalidate=wr.imm_data,
            )
        )  # fmt: skip

    def post_recv(self, wr: FakeWR) -> None:
        assert self.states, "a receive before INIT"
        self.receives.append(wr)

    def modify(self, attr: SimpleNamespace, mask: int) -> None:
        self.states.append(attr.qp_state)

    def complete(self, wr_id: int, status: int = 0, **more: int) -> None:
        """Make a completion ready; :meth:`wake` tells of it."""
        fields = {"byte_len": 0, "wc_flags": 0, "imm_data": 0, "vendor_err": 0} | more
        self.init.scq.queue.append(SimpleNamespace(wr_id=wr_id, status=status, qp_num=self.qp_num, **fields))

    def wake(self) -> None:
        self.init.scq.channel.wake()

    def close(self) -> None:
        assert not self.init.scq.closed, "the completion queue went first"
        assert not self.pd.closed, "the domain went first"
        self.closed = True


class FakeQPEx(FakeQP):
    """One that takes requests in place, as rxe's; :attr:`offered` says whether there is one."""

    offered = False

    def __init__(self, context: FakeContext, init: SimpleNamespace) -> None:
        del context
        if not self.offered:
            raise FakeRdmaError("Failed to create QP", 95)
        assert (init.comp_mask, init.send_ops_flags) == (1 | 1 << 6, 1 | 1 << 2 | 1 << 4 | 1 << 9)
        super().__init__(init.pd, init)
        self.wr_id = self.wr_flags = 0
        self.building: Posted | None = None

    def wr_start(self) -> None:
        assert self.building is None, "the provider waits for its own lock"
        self.building = Posted(elements=(), rkey=0, remote=0, invalidate=0)

    def wr_send(self) -> None:
        self._start(2)

    def wr_send_inv(self, key: int) -> None:
        self._start(9, invalidate=key, rkey=key)

    def wr_rdma_write(self, rkey: int, remote: int) -> None:
        self._start(0, rkey=rkey, remote=remote)

    def wr_rdma_read(self, rkey: int, remote: int) -> None:
        self._start(4, rkey=rkey, remote=remote)

    def wr_set_sge(self, sge: FakeSGE) -> None:
        assert self.building is not None
        self.building.elements = ((sge.addr, sge.length, sge.lkey),)

    def wr_set_inline_data(self, address: int, length: int) -> None:
        assert self.building is not None
        self.building.elements = ((address, length, 0),)
        self.building.data = ctypes.string_at(address, length)

    def wr_complete(self) -> None:
        posted, self.building = self.building, None
        assert posted is not None
        if self.refuse:
            raise FakeRdmaError("Failed to complete", 12)
        self.sends.append(posted)

    def wr_abort(self) -> None:
        self.building = None

    def _start(self, opcode: int, **fields: int) -> None:
        assert self.building is not None
        self.building.__dict__.update(wr_id=self.wr_id, flags=self.wr_flags, opcode=opcode, **fields)


class FakePyverbs:
    """What :class:`iser.rdma.verbs.library.Pyverbs` gives."""

    Context = FakeContext
    PD = FakePD
    MR = FakeMR
    CompChannel = FakeChannel
    CQ = FakeCQ
    QP = FakeQP
    SGE = FakeSGE
    SendWR = FakeWR
    RecvWR = FakeRecvWR
    QPAttr = SimpleNamespace
    QPCap = SimpleNamespace
    QPInitAttr = SimpleNamespace
    QPInitAttrEx = SimpleNamespace
    QPEx = FakeQPEx
    AHAttr = SimpleNamespace
    GlobalRoute = SimpleNamespace
    GID = str
    Error = FakeError
    RdmaError = FakeRdmaError


class FakeCmLibrary:
    """Of :class:`CmLibrary` what a queue pair calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def init_qp_attr(self, identifier: int, state: int) -> tuple[QpAttr, int]:
        return QpAttr(qp_state=state), 1

    def disconnect(self, identifier: int) -> None:
        self.calls.append("disconnect")

    def notify_established(self, identifier: int, event: int) -> None:
        self.calls.append("notify")

    def destroy_id(self, identifier: int) -> None:
        self.calls.append("destroy")


class FakeEventChannel:
    """Of :class:`EventChannel` what an identifier calls."""

    def __init__(self) -> None:
        self.library = FakeCmLibrary()
        self.ids: set[CmId] = set()

    def enter(self, cm: CmId) -> None:
        self.ids.add(cm)

    def leave(self, cm: CmId) -> None:
        self.ids.discard(cm)
