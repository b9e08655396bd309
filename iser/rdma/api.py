"""The verbs seam: what the datamover asks of an RDMA device, whichever provider drives it.

Names and meanings are those of verbs (``ibv_*``) and of the kernel's fast-registration API (``alloc_mr``,
``map_mr_sg``, ``reg_wr``, ``local_inv``).  Local memory in a work request is a sequence of flat byte ``memoryview``
objects.  Nothing here blocks: posting queues work, completions come back in batches through the handler given to
:meth:`Device.create_cq`, always from the event loop and never from inside a post call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import NamedTuple, Protocol

from iser.errors import IserError

__all__ = [
    "Access",
    "CompletionHandler",
    "CompletionQueue",
    "ConnectRequest",
    "ConnectionInfo",
    "ConnectionParams",
    "Device",
    "DeviceAttributes",
    "DeviceCap",
    "Listener",
    "LocalInv",
    "MemoryRegion",
    "MrType",
    "ProtectionDomain",
    "Provider",
    "QpCap",
    "QpState",
    "QueuePair",
    "RdmaRead",
    "RdmaWrite",
    "RegMr",
    "ScatterList",
    "Send",
    "WcOpcode",
    "WcStatus",
    "WorkCompletion",
    "WorkRequest",
    "inc_rkey",
]


class Access(IntFlag):
    """Access flags of a memory region; local read is implied.  Values of ``enum ibv_access_flags``."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4


class MrType(Enum):
    """How a region's list is described: whole pages, or elements of any address and length."""

    MEM_REG = "page list"
    SG_GAPS = "SG list"


class DeviceCap(IntFlag):
    """64-bit capability flags; bits as the kernel numbers them."""

    MEM_MGT_EXTENSIONS = 1 << 21  # posted registration and invalidation, Send with Invalidate
    SG_GAPS_REG = 1 << 32  # regions of type SG_GAPS


@dataclass(frozen=True, slots=True)
class DeviceAttributes:
    """Limits of a device; counts of objects, bytes where the name says so."""

    caps: DeviceCap
    max_qp_wr: int
    max_sge: int
    max_sge_rd: int
    max_cqe: int
    max_mr_bytes: int
    max_page_list: int  # entries of a MEM_REG region
    max_sg_list: int  # entries of an SG_GAPS region
    max_qp_rd_atom: int  # reads served at once, as responder (IRD)
    max_qp_init_rd_atom: int  # reads outstanding, as initiator (ORD)
    page_size: int = 4096
    page_size_cap: int = 0xFFFFF000  # a bit for each page size that a MEM_REG region may have
    max_fragments: int = 1 << 31  # pieces of address space that one MEM_REG region can join
    send_with_invalidate: bool = True  # whether a Send can name a key of the peer


class WcStatus(IntEnum):
    """Completion status; values of ``enum ibv_wc_status``."""

    SUCCESS = 0
    LOC_LEN_ERR = 1
    LOC_QP_OP_ERR = 2
    LOC_PROT_ERR = 4
    WR_FLUSH_ERR = 5
    MW_BIND_ERR = 6
    BAD_RESP_ERR = 7
    LOC_ACCESS_ERR = 8
    REM_INV_REQ_ERR = 9
    REM_ACCESS_ERR = 10
    REM_OP_ERR = 11
    RETRY_EXC_ERR = 12
    RNR_RETRY_EXC_ERR = 13
    FATAL_ERR = 19
    GENERAL_ERR = 21


class WcOpcode(IntEnum):
    """What completed."""

    SEND = 0
    RDMA_WRITE = 1
    RDMA_READ = 2
    LOCAL_INV = 6
    REG_MR = 7
    RECV = 128


class QpState(Enum):
    """State of a queue pair; ERR flushes everything posted."""

    INIT = "init"
    RTS = "rts"
    ERR = "err"


class WorkCompletion(NamedTuple):
    """One completion.  ``byte_len`` counts on RECV and RDMA_READ; ``invalidated_rkey`` is 0 unless given by a Send."""

    wr_id: object
    status: WcStatus
    opcode: WcOpcode
    byte_len: int
    invalidated_rkey: int = 0


CompletionHandler = Callable[[list[WorkCompletion]], None]


class ScatterList(Protocol):
    """What a region is mapped from: parallel sequences, one entry an element; flat byte views, lengths in bytes."""

    @property
    def views(self) -> Sequence[memoryview]: ...

    @property
    def addresses(self) -> Sequence[int]: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def length(self) -> int: ...


class MemoryRegion(ABC):
    """A region that is registered, used and invalidated many times.

    ``rkey`` is a 24-bit index and, in its low byte, the 8-bit variant; :func:`inc_rkey` gives the next variant.  A
    region is *free* after allocation and after an invalidation, and *valid* after its :class:`RegMr` completed.
    """

    __slots__ = ("access", "iova", "kind", "length", "lkey", "max_num_sg", "rkey", "valid")

    kind: MrType
    max_num_sg: int
    lkey: int
    rkey: int
    iova: int
    length: int
    access: Access
    valid: bool

    @abstractmethod
    def map_sg(self, sg: ScatterList, offset: int = 0, page_size: int = 4096) -> int:
        """Take the list for the next registration and return how many elements fit.

        ``offset`` bytes of the first element are skipped.  Of a MEM_REG region that is the longest prefix that a page
        list can describe; ``page_size`` does not matter to SG_GAPS.  Sets ``iova`` to the address of the first byte and
        ``length``.  Raises MemoryRegionError when the region is valid, or the list is empty or too long.
        """

    def next_key(self, access: Access) -> int:
        """The key to register the mapped list under, for ``access``: the next variant, or what the device assigns.

        Raises MemoryRegionError or ResourceError where the device registers at once and cannot.
        """
        del access
        return inc_rkey(self.rkey)

    @abstractmethod
    def close(self) -> None:
        """Deregister; its key is refused from now on.  Idempotent."""


@dataclass(slots=True)
class Send:
    """Send the bytes of ``sg`` as one message into the next receive; ``invalidate`` is a peer's key, 0 for none."""

    wr_id: object
    sg: Sequence[memoryview]
    invalidate: int = 0
    signaled: bool = True


@dataclass(slots=True)
class RdmaWrite:
    """Write the bytes of ``sg`` to ``remote_addr`` in the peer's region ``rkey``."""

    wr_id: object
    sg: Sequence[memoryview]
    remote_addr: int
    rkey: int
    signaled: bool = False


@dataclass(slots=True)
class RdmaRead:
    """Read from ``remote_addr`` in the peer's region ``rkey`` until ``sg`` is full."""

    wr_id: object
    sg: Sequence[memoryview]
    remote_addr: int
    rkey: int
    signaled: bool = True


@dataclass(slots=True)
class RegMr:
    """Make ``mr`` valid under ``key`` for ``access``; fails on a valid region and on a key of another index."""

    wr_id: object
    mr: MemoryRegion
    key: int
    access: Access
    signaled: bool = False


@dataclass(slots=True)
class LocalInv:
    """Invalidate our own region ``rkey``."""

    wr_id: object
    rkey: int
    signaled: bool = False


WorkRequest = Send | RdmaWrite | RdmaRead | RegMr | LocalInv


class ProtectionDomain(ABC):
    """Keys of one domain work only on queue pairs of the same domain."""

    @abstractmethod
    def alloc_mr(self, kind: MrType, max_num_sg: int) -> MemoryRegion:
        """A free region for lists of up to ``max_num_sg`` entries.  Raises ResourceError or UsageError."""

    @abstractmethod
    def alloc_buffer(self, length: int) -> memoryview:
        """``length`` zeroed, page-aligned bytes that may stand in any work request of this domain."""

    @abstractmethod
    def close(self) -> None:
        """Free the domain and all that it holds.  Idempotent."""

    @property
    @abstractmethod
    def valid_keys(self) -> int:
        """How many regions a peer could reach now: the leak check."""


class CompletionQueue(ABC):
    """Hands completions to its handler in batches."""

    @abstractmethod
    def close(self) -> None:
        """No handler call comes after this.  Idempotent."""


@dataclass(frozen=True, slots=True)
class QpCap:
    """Depths of a queue pair, in work requests."""

    max_send_wr: int
    max_recv_wr: int


class QueuePair(ABC):
    """A reliable connected queue pair."""

    #: Called once when the connection ended, after every posted request was flushed; None after an orderly end.
    on_disconnect: Callable[[IserError | None], None] | None
    #: Name of the connection for log lines, e.g. ``127.0.0.1:3260``.
    name: str

    @property
    @abstractmethod
    def state(self) -> QpState: ...

    @property
    def remote_operations(self) -> int | None:
        """RDMA Writes and Reads of the peer on our memory so far; None where the device does not tell."""
        return None

    @abstractmethod
    def post_send(self, *wrs: WorkRequest) -> None:
        """Queue work requests, to be carried out in order.

        Raises LocalProtocolError when not in RTS (in ERR they are flushed instead), MemoryRegionError for a
        registration or invalidation that the region's state forbids, ResourceError past ``max_send_wr``.
        """

    @abstractmethod
    def post_recv(self, wr_id: object, buffer: memoryview) -> None:
        """Queue one receive buffer.  Legal from INIT on.  Raises ResourceError past ``max_recv_wr``."""

    @abstractmethod
    def disconnect(self) -> None:
        """Orderly end: what is posted goes out first.  ``on_disconnect`` follows.  Idempotent, legal in every state."""

    @abstractmethod
    def abort(self, reason: IserError) -> None:
        """End at once; everything is flushed; ``on_disconnect`` gets ``reason`` later, from the event loop."""

    @abstractmethod
    async def close(self, timeout: float = 5.0) -> None:
        """Disconnect if need be, wait until flushed (at most ``timeout`` seconds, then abort), free.  Idempotent."""


@dataclass(frozen=True, slots=True)
class ConnectionParams:
    """What one side says when connecting or accepting.

    ``responder_resources`` is how many RDMA Reads of the peer we serve at once (IRD), ``initiator_depth`` how many we
    mean to have outstanding (ORD).  The retry counts matter to RoCE and InfiniBand only.
    """

    private_data: bytes = b""
    responder_resources: int = 16
    initiator_depth: int = 16
    retry_count: int = 7
    rnr_retry_count: int = 7


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What was agreed, in our terms: the reads we serve, the reads we may have outstanding, the peer's private data."""

    private_data: bytes
    responder_resources: int
    initiator_depth: int
    local_address: tuple[str, int]
    remote_address: tuple[str, int]


class ConnectRequest(ABC):
    """A peer that wants to connect; answer with exactly one of :meth:`accept` and :meth:`reject`."""

    #: What the peer asked for, in our own terms (the peer's ORD is our ``responder_resources``).
    info: ConnectionInfo
    device: Device

    @abstractmethod
    async def accept(self, qp: QueuePair, params: ConnectionParams) -> ConnectionInfo:
        """Bring ``qp`` (its receives already posted) to RTS.  Raises ConnectionFailed when the peer has gone."""

    @abstractmethod
    async def reject(self, private_data: bytes = b"") -> None:
        """Refuse."""


class Device(ABC):
    """An RDMA device."""

    name: str
    attributes: DeviceAttributes

    @abstractmethod
    def alloc_pd(self) -> ProtectionDomain: ...

    @abstractmethod
    def create_cq(self, depth: int, handler: CompletionHandler) -> CompletionQueue: ...

    @abstractmethod
    def create_qp(self, pd: ProtectionDomain, cq: CompletionQueue, cap: QpCap) -> QueuePair: ...


class Listener(ABC):
    """A portal that accepts connections."""

    #: The address really bound; the port is filled in where 0 was asked for.
    address: tuple[str, int]

    @abstractmethod
    async def close(self) -> None:
        """Stop accepting; established connections live on.  Idempotent."""


class Provider(ABC):
    """A way to reach RDMA devices: the embedded ``softiwarp``, or ``verbs``."""

    name: str

    @abstractmethod
    async def connect(
        self,
        host: str,
        port: int,
        setup: Callable[[Device], QueuePair],
        params: ConnectionParams | Callable[[Device], ConnectionParams],
        timeout: float = 10.0,
    ) -> tuple[QueuePair, ConnectionInfo]:
        """Resolve the address, let ``setup`` make the queue pair and post its receives, connect.

        ``params`` may depend on the device that turns out to reach the peer.

        Raises ConnectionFailed (also after ``timeout`` seconds) or ConnectionRejected, with the queue pair closed.
        """

    @abstractmethod
    async def listen(self, host: str, port: int, on_request: Callable[[ConnectRequest], Awaitable[None]]) -> Listener:
        """Accept connections; ``on_request`` runs as a task for each.  Raises ConnectionFailed if the bind fails."""


def inc_rkey(rkey: int) -> int:
    """The same index with the next of its 256 variants."""
    return (rkey & 0xFFFFFF00) | ((rkey + 1) & 0xFF)
