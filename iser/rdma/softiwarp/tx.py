"""The sending half of the protocol core: work requests and read responses in, gathered FPDUs out.

Messages are cut into FPDUs only when the shell asks for bytes, and only a window ahead, so that memory stays bounded
and payload is not copied without CRC: small pieces are put together in one buffer, larger ones stand in the gather list
as views.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from crc32c import crc32c

from iser.errors import TerminateError
from iser.rdma.api import LocalInv, RdmaRead, RdmaWrite, RegMr, Send
from iser.rdma.softiwarp.memory import SoftMemoryRegion, slices_of
from iser.rdma.softiwarp.wire import (
    CTRL_LAST,
    MAX_ULPDU,
    MSN_MASK,
    OP_READ_REQUEST,
    OP_READ_RESPONSE,
    OP_SEND,
    OP_SEND_INV,
    OP_TERMINATE,
    OP_WRITE,
    QN_READ_REQUEST,
    QN_SEND,
    QN_TERMINATE,
    READ_REQUEST,
    READ_REQUEST_ULPDU,
    TAGGED,
    TAGGED_HEADER,
    UNTAGGED,
    UNTAGGED_HEADER,
    fault,
)

__all__ = [
    "GATHERED_MAX",
    "GATHER_LIMIT",
    "GATHER_ROOM",
    "INLINE_MAX",
    "TX_WINDOW",
    "PendingRead",
    "ReadResponse",
    "Transmitter",
]

TX_WINDOW: Final = 1 << 20  # bytes of FPDUs built ahead of the socket
GATHER_LIMIT: Final = 960  # views in one gather list; with one FPDU more it stays below IOV_MAX
INLINE_MAX: Final = 256  # pieces of up to this many bytes each are copied next to their header: cheaper than views
#: Pieces of up to this many bytes on average are gathered here: the kernel takes longer for a piece than for so many
#: bytes once more.  A card reads them one by one into its own memory, too.
GATHERED_MAX: Final = 1024
GATHER_ROOM: Final = TX_WINDOW + (64 << 10)  # bytes gathered since all was sent last
#: An address of the peer's that runs over the end of the space wraps on the wire, and the peer refuses it.
_TO_MASK: Final = (1 << 64) - 1
_GATHER_FULL: Final = GATHER_ROOM - MAX_ULPDU  # there may be no room for one FPDU more
_FEW: Final = 4  # pieces to inline at the most
_FRAME: Final = 2 + TAGGED_HEADER + 4  # bytes of a tagged FPDU without padding that are not payload
#: An unused CRC field, and the header of the tagged FPDU that follows it.
_NEXT_TAGGED: Final = struct.Struct(">4x" + TAGGED.format[1:])
_PADDING: Final = (b"", bytes(1), bytes(2), bytes(3))
_PADS: Final = (bytes(4), bytes(5), bytes(6), bytes(7))  # padding and an unused CRC field


class PendingRead:
    """One of our reads: on its way to the wire, or waiting for its response.  The sink STag names it; its TO is 0."""

    __slots__ = ("got", "stag", "starts", "total", "views", "wr")

    def __init__(self, wr: RdmaRead, stag: int, total: int) -> None:
        self.wr = wr
        self.stag = stag
        self.total = total
        self.got = 0
        self.views = wr.sg
        self.starts = (0,) if len(wr.sg) == 1 else (0, *accumulate(map(len, wr.sg[:-1])))

    def slices(self, offset: int, length: int) -> list[memoryview]:
        return slices_of(self.views, self.starts, offset, length)


class ReadResponse:
    """A read of the peer's that we serve.  ``region`` is None for a read of nothing."""

    __slots__ = ("offset", "region", "sink_stag", "sink_to", "size", "stag")

    def __init__(
        self, sink_stag: int, sink_to: int, size: int, region: SoftMemoryRegion | None, stag: int, offset: int
    ) -> None:
        self.sink_stag = sink_stag
        self.sink_to = sink_to
        self.size = size
        self.region = region
        self.stag = stag
        self.offset = offset


class LocalDone:
    """A registration or invalidation that is carried out; its completion keeps its place among the others."""

    __slots__ = ("wr",)

    def __init__(self, wr: RegMr | LocalInv) -> None:
        self.wr = wr


class _Terminated:
    """Stands where the Terminate ends, so that the shell can see that it has gone."""

    __slots__ = ()


TxItem = Send | RdmaWrite | PendingRead | ReadResponse | LocalDone
Mark = TxItem | _Terminated | None


class Transmitter:
    """Queue and framing.  ``queue`` takes items in the order in which they go out.

    ``marks`` holds the end of each built FPDU in the stream and, for the last one of a message, the item; the core
    completes items as :meth:`sent` passes them.
    """

    __slots__ = (
        "_built",
        "_gathered",
        "_iov",
        "_last_end",
        "_room",
        "_segments",
        "_sent",
        "_tail",
        "crc",
        "held",
        "marks",
        "msn_read",
        "msn_send",
        "queue",
        "segment",
    )

    def __init__(self) -> None:
        self.queue: deque[TxItem] = deque()
        self.marks: deque[tuple[int, Mark]] = deque()
        self.crc = False
        self.held = False
        self.segment = MAX_ULPDU
        self.msn_send = 1
        self.msn_read = 1
        self._iov: list[bytes | bytearray | memoryview] = []
        self._tail: bytearray | None = None
        self._segments: Iterator[None] | None = None
        self._room: memoryview | None = None  # made when there is something to gather
        self._gathered = 0  # bytes of it that are taken, until all that was built is sent
        self._built = 0  # stream positions: the end of what is built,
        self._sent = 0  # of what the socket took,
        self._last_end = 0  # and of the last FPDU that it took whole

    @property
    def unsent(self) -> int:
        """Bytes built that the socket has not taken."""
        return self._built - self._sent

    @property
    def pending(self) -> bool:
        """Is there anything that may go out now?"""
        return not self.held and bool(self._iov or self.queue)

    def outgoing(self) -> list[bytes | bytearray | memoryview]:
        """What to gather next, at most IOV_MAX pieces; empty when there is nothing to do.

        Raises TerminateError when the source of a read response has been invalidated.
        """
        if self.held:
            return []
        if self.queue and self._built - self._sent < TX_WINDOW and len(self._iov) < GATHER_LIMIT:
            self._build()
        self._tail = None  # it may be partly sent when the next FPDU is built
        return self._iov if len(self._iov) <= GATHER_LIMIT else self._iov[:GATHER_LIMIT]

    def sent(self, count: int) -> list[Mark]:
        """The socket took ``count`` bytes.  Returns the items that ended in them, in order."""
        self._sent += count
        position = self._sent
        iov = self._iov
        if position == self._built:
            self._iov = []
            self._gathered = 0
        else:
            done = 0
            for piece in iov:
                size = len(piece)
                if count < size:
                    break
                count -= size
                done += 1
            del iov[:done]
            if count:
                iov[0] = memoryview(iov[0])[count:]
        marks = self.marks
        ended: list[Mark] = []
        while marks and marks[0][0] <= position:
            self._last_end, item = marks.popleft()
            if item is not None:
                ended.append(item)
        return ended

    def cut(self, terminate: bytes | None) -> None:
        """Drop all but the rest (copied) of an FPDU that is partly sent, and put a Terminate with this ULP part behind.

        With None everything is dropped: the stream is not to be used any more.
        """
        rest = b""
        if terminate is not None and self._sent > self._last_end:
            rest = b"".join(self._iov)[: self.marks[0][0] - self._sent]
        self.queue.clear()
        self.marks.clear()
        self._segments = None
        self._tail = None
        self._iov = [rest] if rest else []
        self._built = self._sent + len(rest)
        self.held = False
        if terminate is not None:
            header = UNTAGGED.pack(UNTAGGED_HEADER + len(terminate), OP_TERMINATE | CTRL_LAST, 0, QN_TERMINATE, 1, 0)
            self._emit(header, (memoryview(terminate),), len(terminate), _Terminated())

    def _build(self) -> None:
        queue, iov = self.queue, self._iov
        limit = self._sent + TX_WINDOW
        while queue and self._built < limit and len(iov) < GATHER_LIMIT and self._gathered < _GATHER_FULL:
            item = queue[0]
            if self._segments is None and not self._emit_whole(item):
                self._segments = self._cut_message(item)
            if self._segments is not None:
                for _ in self._segments:
                    if self._built >= limit or len(iov) >= GATHER_LIMIT or self._gathered >= _GATHER_FULL:
                        return
                self._segments = None
            queue.popleft()

    def _emit_whole(self, item: TxItem) -> bool:
        """Build a message of one FPDU; False if it takes several."""
        kind = type(item)
        if kind is Send:
            return self._emit_send(item)  # type: ignore[arg-type]  # exact, and isinstance costs more
        if kind is RdmaWrite:
            total = sum(map(len, item.sg))  # type: ignore[union-attr, arg-type]  # exact
            if total > self.segment - TAGGED_HEADER:
                return False
            header = TAGGED.pack(
                TAGGED_HEADER + total,
                OP_WRITE | CTRL_LAST,
                item.rkey,  # type: ignore[union-attr]  # exact
                item.remote_addr & _TO_MASK,  # type: ignore[union-attr]  # exact
            )
            self._emit(header, item.sg, total, item)  # type: ignore[union-attr]  # exact
            return True
        if isinstance(item, PendingRead):
            self._emit_read_request(item)
            return True
        if isinstance(item, LocalDone):
            self.marks.append((self._built, item))
            return True
        return False

    def _emit_send(self, wr: Send) -> bool:
        sg = wr.sg
        total = len(sg[0]) if len(sg) == 1 else sum(map(len, sg))
        if total > self.segment - UNTAGGED_HEADER:
            return False
        control = (OP_SEND_INV if wr.invalidate else OP_SEND) | CTRL_LAST
        header = UNTAGGED.pack(UNTAGGED_HEADER + total, control, wr.invalidate, QN_SEND, self.msn_send, 0)
        self.msn_send = self.msn_send + 1 & MSN_MASK
        self._emit(header, wr.sg, total, wr)
        return True

    def _emit_read_request(self, read: PendingRead) -> None:
        wr = read.wr
        header = UNTAGGED.pack(READ_REQUEST_ULPDU, OP_READ_REQUEST | CTRL_LAST, 0, QN_READ_REQUEST, self.msn_read, 0)
        self.msn_read = self.msn_read + 1 & MSN_MASK
        self._emit(
            header + READ_REQUEST.pack(read.stag, 0, read.total, wr.rkey, wr.remote_addr & _TO_MASK), (), 0, read
        )

    def _cut_message(self, item: TxItem) -> Iterator[None]:
        if isinstance(item, Send):
            return self._cut_send(item)
        if isinstance(item, RdmaWrite):
            return self._cut_write(item)
        assert isinstance(item, ReadResponse)
        return self._cut_response(item)

    def _cut_send(self, wr: Send) -> Iterator[None]:
        room = self.segment - UNTAGGED_HEADER & ~3
        control = OP_SEND_INV if wr.invalidate else OP_SEND
        msn = self.msn_send
        self.msn_send = msn + 1 & MSN_MASK
        starts = [0, *accumulate(map(len, wr.sg))]
        total = starts.pop()
        for offset in range(0, total, room):
            size = min(room, total - offset)
            last = offset + size == total
            header = UNTAGGED.pack(
                UNTAGGED_HEADER + size, control | CTRL_LAST * last, wr.invalidate, QN_SEND, msn, offset
            )
            self._emit(header, slices_of(wr.sg, starts, offset, size), size, wr if last else None)
            yield

    def _cut_write(self, wr: RdmaWrite) -> Iterator[None]:
        room = self._tagged_room()
        starts = [0, *accumulate(map(len, wr.sg))]
        total = starts.pop()
        to = wr.remote_addr
        offset = 0
        if len(wr.sg) == 1 and not self.crc:
            while total - offset > room:
                offset += self._emit_full(wr.sg[0], offset, total, OP_WRITE, wr.rkey, to)
                yield
        for offset in range(offset, total, room):  # noqa: B020 - from where the full ones end
            size = min(room, total - offset)
            last = offset + size == total
            header = TAGGED.pack(TAGGED_HEADER + size, OP_WRITE | CTRL_LAST * last, wr.rkey, to + offset & _TO_MASK)
            self._emit(header, slices_of(wr.sg, starts, offset, size), size, wr if last else None)
            yield

    def _cut_response(self, item: ReadResponse) -> Iterator[None]:
        room = self._tagged_room()
        total = item.size
        region = item.region
        done = 0
        if region is not None and region.flat is not None and not self.crc:
            source = region.flat[item.offset : item.offset + total]
            while total - done > room:
                _check_source(item)
                done += self._emit_full(source, done, total, OP_READ_RESPONSE, item.sink_stag, item.sink_to)
                yield
        # A read of nothing is answered with one empty segment.
        for done in range(done, total or 1, room):  # noqa: B020 - likewise
            size = min(room, total - done)
            last = done + size == total
            header = TAGGED.pack(
                TAGGED_HEADER + size, OP_READ_RESPONSE | CTRL_LAST * last, item.sink_stag, item.sink_to + done
            )
            pieces: Sequence[memoryview] = ()
            if region is not None:
                _check_source(item)
                pieces = region.slices(item.offset + done, size)
            self._emit(header, pieces, size, item if last else None)
            yield

    def _tagged_room(self) -> int:
        """Payload bytes of a full tagged FPDU: length field, header and payload end on a multiple of 4, so no pad."""
        return self.segment - TAGGED_HEADER & ~3

    def _emit_full(self, source: memoryview, offset: int, total: int, control: int, stag: int, to: int) -> int:
        """Append full segments of ``source`` from ``offset`` on, without CRC: what the window takes, at least one.

        The last segment of the ``total`` bytes is left to :meth:`_emit`.  Returns the bytes of payload.
        """
        room, iov, marks, built = self._tagged_room(), self._iov, self.marks, self._built
        space = min((self._sent + TX_WINDOW - built - 1) // (room + _FRAME) + 1, GATHER_LIMIT - len(iov) + 1 >> 1)
        end = offset + room * min((total - offset - 1) // room, max(space, 1))
        start, ulpdu = offset, TAGGED_HEADER + room
        if self._tail is not None:
            self._tail += TAGGED.pack(ulpdu, control, stag, to + start & _TO_MASK)
        else:
            iov.append(TAGGED.pack(ulpdu, control, stag, to + start & _TO_MASK))
        while True:
            iov.append(source[offset : offset + room])
            offset += room
            built += room + _FRAME
            marks.append((built, None))
            if offset == end:
                break
            iov.append(_NEXT_TAGGED.pack(ulpdu, control, stag, to + offset & _TO_MASK))
        self._tail = bytearray(_PADS[0])
        iov.append(self._tail)
        self._built = built
        return end - start

    def _emit(self, header: bytes, pieces: Sequence[memoryview], size: int, item: Mark) -> None:
        """Append one FPDU: ``header`` with its length field, ``size`` bytes in ``pieces``, pad and CRC field."""
        tail = self._tail
        iov = self._iov
        if self.crc and size:
            # A copy: the memory may change before the socket takes it, and then the CRC would be wrong.
            pieces = (memoryview(b"".join(pieces)),)
        if tail is None:
            tail = bytearray(header)
            iov.append(tail)
        else:
            tail += header
        if size <= INLINE_MAX * min(len(pieces), _FEW):
            tail += pieces[0] if len(pieces) == 1 else b"".join(pieces)
        elif pieces:
            if len(pieces) > 1 and size <= GATHERED_MAX * len(pieces):
                iov.append(self._gather(pieces, size))
            else:
                # Not piece by piece: lists have hundreds of them.
                iov.extend(pieces)
            tail = bytearray()
            iov.append(tail)
        self._tail = tail
        size += len(header)
        pad = -size & 3
        if self.crc:
            value = crc32c(header)
            for piece in pieces:
                value = crc32c(piece, value)
            padding = _PADDING[pad]
            tail += padding
            tail += crc32c(padding, value).to_bytes(4, "little")
        else:
            tail += _PADS[pad]
        self._built += size + pad + 4
        self.marks.append((self._built, item))

    def _gather(self, pieces: Sequence[memoryview], size: int) -> memoryview:
        """The ``size`` bytes of ``pieces`` in one."""
        room = self._room
        if room is None:
            room = self._room = memoryview(bytearray(GATHER_ROOM))
        start, end = self._gathered, self._gathered + size
        self._gathered = end
        place = room[start:end]
        place[:] = b"".join(pieces)
        return place


def _check_source(item: ReadResponse) -> None:
    """Raise TerminateError when the memory of a read of the peer's is no longer there for it."""
    region = item.region
    if region is None or not region.valid or region.rkey != item.stag:
        raise TerminateError(
            f"STag {item.stag:#010x} was invalidated while the peer was reading from it",
            *fault.PROTECTION_INVALID_STAG,
        )
