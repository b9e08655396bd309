"""What the tests of the RNIC share: scatter lists, hand-made FPDUs, and cores joined without sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crc32c import crc32c

from iser.errors import TerminateError
from iser.rdma.api import Access, MrType, QpCap, RegMr, WcStatus, WorkCompletion, inc_rkey
from iser.rdma.softiwarp.core import Core
from iser.rdma.softiwarp.device import SoftDevice, SoftProtectionDomain
from iser.rdma.softiwarp.memory import SoftMemoryRegion
from iser.rdma.softiwarp.options import SoftIwarpOptions
from iser.rdma.softiwarp.wire import (
    CTRL_LAST,
    READ_REQUEST,
    TAGGED,
    TAGGED_HEADER,
    UNTAGGED,
    UNTAGGED_HEADER,
    Fault,
    fpdu_size,
    parse_terminate,
)

ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ
ORD = 16


class Elements:
    """A scatter list over ``views``, the first one at address ``base``, each ``gap`` bytes behind the one before."""

    def __init__(self, views: Sequence[memoryview], base: int = 0x7F0000001000, gap: int = 8) -> None:
        self.views = views
        self.lengths = [len(view) for view in views]
        self.addresses = []
        for length in self.lengths:
            self.addresses.append(base)
            base += length + gap
        self.length = sum(self.lengths)


def buffer(length: int) -> memoryview:
    return memoryview(bytearray(length))


def new_device(options: SoftIwarpOptions | None = None) -> SoftDevice:
    return SoftDevice(options or SoftIwarpOptions())


class Peer:
    """A core with a domain and everything that completed on it."""

    def __init__(
        self,
        device: SoftDevice | None = None,
        *,
        initiator: bool = True,
        crc: bool = False,
        segment: int = 0xFFFF,
        ird: int = ORD,
        depth: int = ORD,
        cap: QpCap | None = None,
    ) -> None:
        self.device = device or new_device()
        self.pd: SoftProtectionDomain = self.device.alloc_pd()
        self.core = Core(self.device.keys, self.pd, cap or QpCap(256, 256))
        self.core.start(ird=ird, ord=depth, crc=crc, segment=segment, initiator=initiator)
        self.log: list[WorkCompletion] = []

    def region(
        self, views: Sequence[memoryview], access: Access = ALL, kind: MrType = MrType.SG_GAPS
    ) -> SoftMemoryRegion:
        """A valid region over ``views``."""
        mr = self.pd.alloc_mr(kind, 1000)
        assert isinstance(mr, SoftMemoryRegion)
        mr.map_sg(Elements(views))
        self.core.post_send([RegMr("reg", mr, inc_rkey(mr.rkey), access)])
        return mr

    def take(self) -> bytes:
        """All that the core wants to send."""
        out = bytearray()
        while iov := self.core.outgoing():
            data = b"".join(iov)
            self.core.sent(len(data))
            out += data
        self.collect()
        return bytes(out)

    def give(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.core.feed(data)
        self.collect()

    def collect(self) -> None:
        self.log += self.core.take_completions()

    def statuses(self) -> list[tuple[object, WcStatus]]:
        return [(wc.wr_id, wc.status) for wc in self.log]


def pump(a: Peer, b: Peer, pieces: Callable[[int], int] = lambda left: left) -> None:
    """Carry bytes both ways until both are quiet, in pieces of the lengths that ``pieces`` picks."""
    while True:
        moved = False
        for source, sink in ((a, b), (b, a)):
            data = source.take()
            moved = moved or bool(data)
            while data:
                size = pieces(len(data))
                sink.give(data[:size])
                data = data[size:]
        if not moved:
            return


def fpdu(ulpdu: bytes, *, crc: bool = False) -> bytes:
    """A ULPDU with its length, pad and CRC field."""
    body = len(ulpdu).to_bytes(2, "big") + ulpdu
    body += bytes(-len(body) & 3)
    return body + (crc32c(body).to_bytes(4, "little") if crc else bytes(4))


def tagged(control: int, stag: int, to: int, data: bytes = b"", *, last: bool = True, crc: bool = False) -> bytes:
    """A tagged FPDU; ``control`` as the constants of the wire module have it."""
    header = TAGGED.pack(TAGGED_HEADER + len(data), control | CTRL_LAST * last, stag, to)
    return fpdu(header[2:] + data, crc=crc)


def untagged(
    control: int,
    data: bytes = b"",
    *,
    qn: int = 0,
    msn: int = 1,
    mo: int = 0,
    stag: int = 0,
    last: bool = True,
    crc: bool = False,
) -> bytes:
    """An untagged FPDU, likewise."""
    header = UNTAGGED.pack(UNTAGGED_HEADER + len(data), control | CTRL_LAST * last, stag, qn, msn, mo)
    return fpdu(header[2:] + data, crc=crc)


def read_request(stag: int, to: int, size: int, *, msn: int = 1, mo: int = 0, qn: int = 1) -> bytes:
    """A Read Request for ``size`` bytes at ``to`` of ``stag``, sink 0x77 at 0x2000."""
    return untagged(0x0141, READ_REQUEST.pack(0x77, 0x2000, size, stag, to), qn=qn, msn=msn, mo=mo)


def terminate_in(stream: bytes) -> tuple[Fault, bytes]:
    """The one Terminate in what a core sends, and the header that it names."""
    while True:
        size = fpdu_size(int.from_bytes(stream[:2], "big"))
        if stream[3] & 0xF == 7:
            raw = stream[20 : 2 + int.from_bytes(stream[:2], "big")]
            return parse_terminate(raw).fault, raw[6:]
        stream = stream[size:]


def refuses(peer: Peer, data: bytes, *codes: int, header: bytes | None = None) -> None:
    """``data`` ends the connection with a Terminate of these codes, about this header if one is given."""
    peer.give(data)
    error = peer.core.error
    assert isinstance(error, TerminateError)
    what, named = terminate_in(peer.take())
    assert tuple(what) == codes == (error.layer, error.etype, error.code)
    if header is not None:
        assert named == header


def with_receive(size: int = 100, count: int = 1) -> tuple[Peer, memoryview]:
    peer = Peer(initiator=False)
    target = buffer(size)
    for _ in range(count):
        peer.core.post_recv("recv", target)
    return peer, target
