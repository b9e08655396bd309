"""The sending half of the framing: PDUs and data sequences in, gathered bytes out.

A data sequence is cut into PDUs only when the shell asks for bytes, and only a window ahead, so that a peer with a
small MaxRecvDataSegmentLength cannot make us hold a million headers, and payload is never copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from iser.datamover.tcp.wire import (
    BHS_LENGTH,
    DATA_IN,
    DATA_IN_OPCODE,
    DATA_OUT,
    DATA_OUT_OPCODE,
    DIGEST_LENGTH,
    PADDING,
    digest,
)
from iser.pdu import DATA_IN_STATUS, FINAL, RESERVED_TAG, Pdu, ScsiResponse, encode, encode_header
from iser.sg.cursor import Cursor

__all__ = ["GATHER_LIMIT", "MAX_BACKLOG", "TX_WINDOW", "DataOuts", "Piece", "Put", "Transmitter"]

TX_WINDOW: Final = 1 << 20  # bytes built ahead of the socket
GATHER_LIMIT: Final = (
    960  # pieces in one gather list; one PDU more stays below IOV_MAX but for long lists, which are cut
)
MAX_BACKLOG: Final = 1024  # items queued before nothing more is read from a peer that does not read
_IOV_MAX: Final = 1024
_RESIDUAL_BITS: Final = 0x06  # O and U stand in the same place in a SCSI Response and in a Data-In

Piece = bytes | bytearray | memoryview


class Put:
    """Read data of a task.  ``response``, once given, travels in the last PDU (RFC 7143 section 11.7.3).

    ``notify`` is what the owner wants to hear when the data has gone to the kernel, None for nothing.
    """

    __slots__ = ("data_sn", "exp_cmd_sn", "itt", "length", "max_cmd_sn", "notify", "offset", "response", "views")

    def __init__(
        self,
        itt: int,
        views: Sequence[memoryview],
        length: int,
        offset: int,
        data_sn: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        notify: tuple[int, int] | None,
    ) -> None:
        self.itt = itt
        self.views = views
        self.length = length
        self.offset = offset
        self.data_sn = data_sn
        self.exp_cmd_sn = exp_cmd_sn
        self.max_cmd_sn = max_cmd_sn
        self.notify = notify
        self.response: ScsiResponse | None = None


class DataOuts:
    """The answer to an R2T: ``pieces`` are its ``length`` bytes of write data from ``offset`` on."""

    __slots__ = ("exp_stat_sn", "itt", "length", "lun", "offset", "pieces", "ttt")

    def __init__(
        self, lun: int, itt: int, ttt: int, pieces: Sequence[memoryview], length: int, offset: int, exp_stat_sn: int
    ) -> None:
        self.lun = lun
        self.itt = itt
        self.ttt = ttt
        self.pieces = pieces
        self.length = length
        self.offset = offset
        self.exp_stat_sn = exp_stat_sn


class Transmitter:
    """Queue and framing.  ``segment`` is the longest data segment that the peer takes, ``burst`` MaxBurstLength.

    :meth:`sent` returns the notifications of what has gone.
    """

    __slots__ = (
        "_built",
        "_iov",
        "_marks",
        "_parts",
        "_sent",
        "burst",
        "data_digest",
        "header_digest",
        "queue",
        "segment",
    )

    def __init__(self) -> None:
        self.queue: deque[bytes | list[Piece] | Put | DataOuts] = deque()
        self.segment = 8192
        self.burst = 262144
        self.header_digest = False
        self.data_digest = False
        self._iov: list[Piece] = []
        self._marks: deque[tuple[int, tuple[int, int]]] = deque()
        self._parts: Iterator[None] | None = None
        self._built = 0  # stream positions: the end of what is built,
        self._sent = 0  # and of what the socket took

    def pdu(self, pdu: Pdu) -> None:
        """Queue a PDU, with the digests that hold now."""
        if not (self.header_digest or self.data_digest):
            self.queue.append(encode(pdu))
            return
        header, data = encode_header(pdu), pdu.data
        parts = [header, digest(header)] if self.header_digest else [header]
        if data:
            parts += [bytes(data), PADDING[len(data) & 3]]
            if self.data_digest:
                parts.append(digest(*parts[-2:]))
        self.queue.append(b"".join(parts))

    def command(self, header: bytes, pieces: Sequence[memoryview], length: int) -> None:
        """Queue a SCSI Command with ``length`` bytes of immediate data; ``header`` is BHS and AHS."""
        if self.header_digest:
            header += digest(header)
        if not length:
            self.queue.append(header)
            return
        data: list[Piece] = [*pieces, PADDING[length & 3]]
        if self.data_digest:
            self.queue.append(b"".join((header, *data, digest(*data))))
        else:
            self.queue.append([header, *data])

    def quick(self, header: bytes, pieces: Sequence[memoryview], length: int, notify: tuple[int, int] | None) -> bool:
        """Build a PDU at once, its length a multiple of 4.  False, with nothing done, when others have to go first."""
        iov = self._iov
        if self.queue or self._built - self._sent >= TX_WINDOW or len(iov) >= GATHER_LIMIT:
            return False
        iov.append(header)
        iov += pieces
        self._built += BHS_LENGTH + length
        if notify is not None:
            self._marks.append((self._built, notify))
        return True

    @property
    def unsent(self) -> int:
        """Bytes built that the socket has not taken."""
        return self._built - self._sent

    @property
    def pending(self) -> bool:
        """Is there anything that may go out now?"""
        return bool(self._iov or self.queue)

    def may_join(self, put: Put) -> bool:
        """Can a response still travel with the data of ``put``, without overtaking what was queued since?"""
        return bool(put.views) and bool(self.queue) and self.queue[-1] is put

    def outgoing(self) -> Sequence[Piece]:
        """What to gather next, at most IOV_MAX pieces; empty when there is nothing to do."""
        iov = self._iov
        if self.queue and self._built - self._sent < TX_WINDOW and len(iov) < GATHER_LIMIT:
            self._build()
        return iov if len(iov) <= _IOV_MAX else iov[:_IOV_MAX]

    def sent(self, count: int) -> list[tuple[int, int]]:
        """The socket took ``count`` bytes."""
        self._sent = position = self._sent + count
        if position == self._built:
            self._iov = []
        else:
            iov = self._iov
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
        marks = self._marks
        ended: list[tuple[int, int]] = []
        while marks and marks[0][0] <= position:
            ended.append(marks.popleft()[1])
        return ended

    def drop_data_outs(self, itt: int) -> None:
        """Task ``itt`` has ended: its write data goes no further than what is built already, whole PDUs."""
        queue = self.queue
        if not queue or not any(_is_data_out(item, itt) for item in queue):
            return
        if _is_data_out(queue[0], itt):
            self._parts = None
        self.queue = deque(item for item in queue if not _is_data_out(item, itt))

    def clear(self) -> None:
        """The connection is over: let go of all memory."""
        self.queue.clear()
        self._marks.clear()
        self._parts = None
        self._iov = []
        self._built = self._sent

    def data_pdus(self, length: int) -> int:
        """How many Data-In PDUs ``length`` bytes take."""
        bursts, rest = divmod(length, self.burst)
        return bursts * -(-self.burst // self.segment) + -(-rest // self.segment)

    def _build(self) -> None:
        queue, iov = self.queue, self._iov
        limit = self._sent + TX_WINDOW
        while queue and self._built < limit and len(iov) < GATHER_LIMIT:
            item = queue[0]
            if type(item) is bytes:
                iov.append(item)
                self._built += len(item)
            elif type(item) is list:
                iov += item
                self._built += sum(map(len, item))
            elif type(item) is Put and item.length <= self.segment and item.length <= self.burst:
                self._data_in(item, item.views, item.length, 0, item.data_sn)
            else:
                parts = self._parts or (self._cut_in(item) if type(item) is Put else self._cut_out(item))  # type: ignore[arg-type]  # the one left
                self._parts = parts
                for _ in parts:
                    if self._built >= limit or len(iov) >= GATHER_LIMIT:
                        return
                self._parts = None
            queue.popleft()

    def _cut_in(self, put: Put) -> Iterator[None]:
        cursor = Cursor(put.views)
        length, segment, burst = put.length, self.segment, self.burst
        done, data_sn = 0, put.data_sn
        while done < length:
            size = min(segment, length - done, burst - done % burst)
            self._data_in(put, cursor.take(size), size, done, data_sn)
            done += size
            data_sn += 1
            yield

    def _data_in(self, put: Put, pieces: Sequence[memoryview], size: int, done: int, data_sn: int) -> None:
        end = done + size
        response, notify = put.response, put.notify
        if end < put.length:
            flags = 0 if end % self.burst else FINAL
            response = notify = None
        else:
            flags = FINAL
            put.views = ()  # nothing can join it any more
        offset = put.offset + done
        if response is None:
            header = DATA_IN.pack(
                DATA_IN_OPCODE, flags, 0, size, 0, put.itt, RESERVED_TAG, 0, put.exp_cmd_sn, put.max_cmd_sn, data_sn,
                offset, 0,
            )  # fmt: skip
        else:
            header = DATA_IN.pack(
                DATA_IN_OPCODE, FINAL | DATA_IN_STATUS | response[1] & _RESIDUAL_BITS, response[3], size, 0, put.itt,
                RESERVED_TAG, response[8], response[9], response[10], data_sn, offset, response[13],
            )  # fmt: skip
        self._emit(header, pieces, size)
        if notify is not None:
            self._marks.append((self._built, notify))

    def _cut_out(self, item: DataOuts) -> Iterator[None]:
        cursor = Cursor(item.pieces)
        length, segment = item.length, self.segment
        done = data_sn = 0
        while done < length:
            size = min(segment, length - done)
            flags = FINAL if done + size == length else 0
            header = DATA_OUT.pack(
                DATA_OUT_OPCODE,
                flags,
                size,
                item.lun,
                item.itt,
                item.ttt,
                item.exp_stat_sn,
                data_sn,
                item.offset + done,
            )
            self._emit(header, cursor.take(size), size)
            done += size
            data_sn += 1
            yield

    def _emit(self, header: bytes, pieces: Sequence[memoryview], size: int) -> None:
        iov = self._iov
        if self.header_digest:
            header += digest(header)
        self._built += len(header) + size
        iov.append(header)
        if self.data_digest:
            # A copy: the memory may change before the socket takes it, and then the digest would be wrong.
            data = b"".join((*pieces, PADDING[size & 3]))
            iov += (data, digest(data))
            self._built += len(data) - size + DIGEST_LENGTH
            return
        iov += pieces
        if size & 3:
            iov.append(PADDING[size & 3])
            self._built += 4 - (size & 3)


def _is_data_out(item: object, itt: int) -> bool:
    return type(item) is DataOuts and item.itt == itt
