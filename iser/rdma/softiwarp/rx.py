"""The receiving half of the protocol core: bytes in, checked and placed; completions out.

The shell asks :meth:`Receiver.get_buffers` where the next bytes go.  Small FPDUs are staged and copied, which is
cheaper than one more system call; when much of a tagged payload is still missing, it goes from the socket straight to
registered memory.  Every check of an FPDU is made before a byte of it is placed, except for the CRC of a payload that
is received in place: that is checked before anything completes (RFC 5041 section 5, RFC 5040 section 5).
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import Final, Protocol

from crc32c import crc32c

from iser.errors import TerminateError
from iser.rdma.api import ProtectionDomain, WcOpcode, WcStatus, WorkCompletion
from iser.rdma.softiwarp.faults import WITHOUT_HEADER, invalidated, short, unexpected, unknown
from iser.rdma.softiwarp.memory import REMOTE_READ, REMOTE_WRITE, KeyTable, SoftMemoryRegion, fill
from iser.rdma.softiwarp.run import RUN_PIECES, Run
from iser.rdma.softiwarp.tx import PendingRead, ReadResponse
from iser.rdma.softiwarp.wire import (
    CTRL_LAST,
    CTRL_MASK,
    CTRL_TAGGED,
    MSN_MASK,
    OP_READ_REQUEST,
    OP_READ_RESPONSE,
    OP_SEND,
    OP_SEND_INV,
    OP_SEND_SE,
    OP_SEND_SE_INV,
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
    segment_header,
)

__all__ = ["RECV_SIZE", "STAGING_SIZE", "STEER_MIN", "Receiver", "Upcalls"]

STAGING_SIZE: Final = 256 << 10
RECV_SIZE: Final = 64 << 10  # bytes asked for at once when nothing is received in place
STEER_MIN: Final = 16 << 10  # missing payload from which receiving in place pays
_DOUBT: Final = 256  # payloads received in place one by one after the peer cut a message otherwise than foreseen
_LARGE_FOR: Final = 4  # small FPDUs after a large one until much is staged at once again
_TAIL_LAST: Final = 1 << 10  # staging after the last segment: CRC field and the Sends that are likely to follow

_TO_SPACE: Final = 1 << 64
_ULPDU: Final = 2  # the length field
_TAGGED_DATA: Final = _ULPDU + TAGGED_HEADER
_UNTAGGED_DATA: Final = _ULPDU + UNTAGGED_HEADER
_MIN_TRAILER: Final = 4  # the CRC field, and no padding
_MIN_FPDU: Final = _TAGGED_DATA + _MIN_TRAILER
_SENDS: Final = frozenset((OP_SEND, OP_SEND_INV, OP_SEND_SE, OP_SEND_SE_INV))
_INVALIDATES: Final = frozenset((OP_SEND_INV, OP_SEND_SE_INV))

_SUCCESS: Final = WcStatus.SUCCESS
_RECV: Final = WcOpcode.RECV
_new = tuple.__new__  # half the price of calling the NamedTuple


class Upcalls(Protocol):
    """What the receiver asks of the core."""

    def heard(self) -> None:
        """The first FPDU arrived."""

    def failed(self, error: TerminateError, ulpdu: int, header: bytes) -> None:
        """The peer broke the protocol; nothing more is received."""

    def terminated(self, raw: bytes) -> None:
        """The peer sent a Terminate with this ULP part."""

    def read_requested(self, response: ReadResponse) -> None:
        """A checked Read Request."""

    def read_done(self) -> None:
        """The oldest read is complete and gone from the list."""

    def may_serve(self) -> bool:
        """Is there room for one more read of the peer's?"""


class Receiver:
    """FPDU parser and placement.  ``completions`` collects what the shell hands to the completion queue."""

    __slots__ = (
        "_buf",
        "_core",
        "_crc",
        "_doubt",
        "_end",
        "_first",
        "_keys",
        "_large",
        "_message_op",
        "_msn",
        "_msn_read",
        "_pd",
        "_pos",
        "_recv_got",
        "_region",
        "_regions",
        "_run",
        "_view",
        "completions",
        "crc",
        "half_received",
        "has_heard",
        "reads",
        "receives",
        "stopped",
        "wanted",
        "writes",
    )

    def __init__(self, core: Upcalls, keys: KeyTable, pd: ProtectionDomain) -> None:
        self._core = core
        self._regions = keys.regions
        self._pd = pd
        self.crc = False
        self.stopped = False
        self.wanted = 0  # bytes that the last get_buffers asked for
        self.writes = 0  # RDMA Writes of the peer that are complete and had data
        self.completions: list[WorkCompletion] = []
        self.receives: deque[tuple[object, memoryview]] = deque()
        self.reads: deque[PendingRead] = deque()  # on the wire, oldest first
        self._buf: bytearray | mmap.mmap = bytearray()
        self._view = memoryview(self._buf)
        self._first = self._view
        self._pos = self._end = 0  # the staged bytes not yet parsed
        # Above 0 for some FPDUs after a payload to receive in place: more of its kind are likely to follow.
        self._large = 0
        self.has_heard = False
        # The untagged message being received.
        self._msn = self._msn_read = 1
        self.half_received: tuple[object, memoryview] | None = None
        self._recv_got = 0
        self._message_op = 0
        # The tagged payload being received in place.
        self._run: Run | None = None
        self._doubt = 0
        self._crc = 0  # of what is here of its FPDU
        self._region: SoftMemoryRegion | None = None

    def start(self, crc: bool) -> None:
        """Begin; the staging buffer is allocated only now."""
        self.crc = crc
        # Of an idle connection the kernel keeps no page of it, where a bytearray is filled with zeros at once.
        self._buf = mmap.mmap(-1, STAGING_SIZE)
        self._view = memoryview(self._buf)
        self._first = self._view[:RECV_SIZE]

    def release(self) -> None:
        """Let go of the memory; nothing is received any more."""
        self.stopped = True
        self._run = self._region = None
        self._buf = bytearray()
        self._view = self._first = memoryview(self._buf)

    @property
    def mid_fpdu(self) -> bool:
        """Would the stream end inside an FPDU now?"""
        return self._end > self._pos or self._run is not None

    @property
    def remote_operations(self) -> int:
        """RDMA Writes and Read Requests of the peer so far."""
        return self.writes + (self._msn_read - 1)

    def get_buffers(self) -> list[memoryview]:
        """Where the next bytes go, in this order.  Report them with :meth:`received` before asking again."""
        run = self._run
        if run is not None and run.left and not self.stopped:
            region = self._region
            if region is None or (region.valid and region.rkey == TAGGED.unpack_from(run.header)[2]):
                return self._steered(run)
            self._fail(invalidated(region.rkey), run.header)
        if self._pos == self._end or self.stopped:
            self._pos = self._end = 0
            if self._large:
                # Little more than the next header, so that the next large payload is received in place from its start.
                self.wanted = _TAIL_LAST
                return [self._view[:_TAIL_LAST]]
            self.wanted = RECV_SIZE
            return [self._first]
        if STAGING_SIZE - self._end < RECV_SIZE:
            left = self._end - self._pos
            self._buf[:left] = self._view[self._pos : self._end]
            self._pos, self._end = 0, left
        self.wanted = wanted = self._rest_of_fpdu() or RECV_SIZE
        return [self._view[self._end : self._end + wanted]]

    def _rest_of_fpdu(self) -> int:
        """What to ask for when the end of a large FPDU is missing; 0 after anything else.

        Were more staged than its end, the next FPDU of the same size would lack its own end again, and so on: all of a
        long transfer would be staged and copied.
        """
        have = self._end - self._pos
        if have < _TAGGED_DATA:
            return 0
        ulpdu, control, _, _ = TAGGED.unpack_from(self._buf, self._pos)
        size: int = (ulpdu + 5 & ~3) + 4
        if size < STEER_MIN or not control & CTRL_TAGGED:
            return 0
        return size - have + (_TAIL_LAST if control & CTRL_LAST else _MIN_FPDU)

    def _steered(self, run: Run) -> list[memoryview]:
        pieces = run.buffers()
        if len(pieces) > RUN_PIECES:
            del pieces[RUN_PIECES:]
            self.wanted = sum(map(len, pieces))
            return pieces
        # Of the next segment as much as _goes_on or _parse looks at, so that its payload is received in place again.
        tail = (
            _TAIL_LAST if run.last else run.trailer + (_MIN_FPDU if self._region is None or self.crc else _TAGGED_DATA)
        )
        self.wanted = run.left + tail
        pieces.append(self._view[:tail])
        return pieces

    def received(self, count: int) -> None:
        """``count`` bytes were put where :meth:`get_buffers` said: parse all that is complete."""
        if self.stopped:
            return
        run = self._run
        if run is None or not run.left:
            self._end += count
        else:
            if self.crc:
                self._add_to_crc(run, min(count, run.left))
            self._pos, self._end = 0, run.took(count)
            if run.done:
                self._passed(run)
            if run.strays is not None:
                self._unforeseen(run.strays)
                return
            if run.left or self._goes_on(run):
                return
        if run is None or self._finish_steered(run):
            self._parse()

    def _add_to_crc(self, run: Run, count: int) -> None:
        """Take the CRC of ``count`` bytes that just came: others may write to their place before the rest is here."""
        value = self._crc
        for piece in run.buffers():
            value = crc32c(piece[:count], value)
            count -= len(piece)
            if count <= 0:
                break
        self._crc = value

    def _goes_on(self, run: Run) -> bool:
        """Go on in place with the next segment of a Write, when all of it is as expected; False leaves it to _parse."""
        region, data = self._region, run.trailer + _TAGGED_DATA
        have = self._end - data
        if region is None or have < 0 or self.crc:
            return False
        ulpdu, control, stag, to = TAGGED.unpack_from(self._buf, run.trailer)
        length, offset = ulpdu - TAGGED_HEADER, to - region.iova
        left = length - have
        # The rest of what region.check() looks at has been checked for the segment before, under the same key.
        if (
            control & CTRL_MASK != OP_WRITE
            or stag != region.rkey
            or not region.valid
            or stag != TAGGED.unpack_from(run.header)[2]
            or left < STEER_MIN
            or offset < 0
            or offset + length > region.length
        ):
            return False
        view, flat = self._view, region.flat
        if run.last:
            self.writes += 1
        if not self.has_heard:
            self._first_heard()
        if have:
            fill(region.slices(offset, have), view[data : self._end])
        pieces = [flat[offset + have : offset + length]] if flat is not None else region.slices(offset + have, left)
        header = bytes(view[run.trailer : data])
        run.go_on(header, (-(ulpdu + _ULPDU) & 3) + _MIN_TRAILER, bool(control & CTRL_LAST), pieces, left)
        self._end = 0
        return True

    def feed(self, data: memoryview) -> None:
        """Receive ``data`` as if read from a socket."""
        while data:
            took = 0
            for buffer in self.get_buffers():
                part = min(len(buffer), len(data))
                buffer[:part] = data[:part]
                data = data[part:]
                took += part
                if not data:
                    break
            self.received(took)

    def _passed(self, run: Run) -> None:
        """Segments before the run's current one are complete."""
        if self._region is None:
            self.reads[0].got += run.done
        run.done = 0
        if not self.has_heard:
            self._first_heard()

    def _unforeseen(self, strays: bytes) -> None:
        """The peer goes on with something else than the run had it: parse that, and foresee less for a while."""
        run = self._run
        assert run is not None
        run.strays = None
        self._doubt = _DOUBT
        strays += self._view[: self._end]
        self._end = 0
        self.feed(memoryview(strays))

    def _finish_steered(self, run: Run) -> bool:
        """Check and complete the payload that was received in place, once its CRC field is here."""
        trailer = run.trailer
        if self._end < trailer:
            return False
        header = run.header
        ulpdu, control, _, _ = TAGGED.unpack(header)
        if self.crc:
            value = crc32c(self._view[: trailer - 4], self._crc)
            if value != int.from_bytes(self._view[trailer - 4 : trailer], "little"):
                self._fail(TerminateError("an FPDU from the peer has a wrong CRC", *fault.CRC), b"")
                return False
        self._run = self._region = None
        self._pos = trailer
        if control & CTRL_MASK == OP_READ_RESPONSE:
            try:
                self._respond(ulpdu - TAGGED_HEADER, control)
            except TerminateError as error:
                self._fail(error, header)
                return False
        elif control & CTRL_LAST:
            self.writes += 1
        if not self.has_heard:
            self._first_heard()
        return True

    def _parse(self) -> None:  # noqa: PLR0912, PLR0915 - the hot loop; a call per step would double its price
        """Take every complete FPDU from the staging buffer, and start to receive in place if the next is large."""
        buf, view = self._buf, self._view
        pos, end = self._pos, self._end
        start = pos
        unpack = TAGGED.unpack_from
        regions = self._regions
        crc = self.crc
        try:
            while end - pos >= _MIN_FPDU:
                ulpdu, control, stag, to = unpack(buf, pos)
                size = (ulpdu + 5 & ~3) + 4
                kind = control & CTRL_MASK
                if end - pos < size:
                    if control & CTRL_TAGGED and size - (end - pos) >= STEER_MIN:
                        if not self.has_heard and pos > start:
                            self._first_heard()
                        self._steer(pos, kind, ulpdu, stag, to)
                        pos = end
                    break
                if crc and crc32c(view[pos : pos + size - 4]) != int.from_bytes(
                    view[pos + size - 4 : pos + size], "little"
                ):
                    raise TerminateError("an FPDU from the peer has a wrong CRC", *fault.CRC)
                if kind in _SENDS:
                    self._send(pos, kind)
                    if self._large:
                        self._large -= 1
                elif kind == OP_WRITE and ulpdu > TAGGED_HEADER:
                    length = ulpdu - TAGGED_HEADER
                    region = regions.get(stag >> 8)
                    if region is None:
                        raise unknown(fault.TAGGED_INVALID_STAG, stag)
                    offset = region.check(stag, to, length, REMOTE_WRITE, self._pd)
                    data = pos + _TAGGED_DATA
                    if region.flat is not None:
                        region.flat[offset : offset + length] = view[data : data + length]
                    else:
                        fill(region.slices(offset, length), view[data : data + length])
                    if length >= STEER_MIN:
                        self._large = _LARGE_FOR
                    elif self._large:
                        self._large -= 1
                    if control & CTRL_LAST:
                        self.writes += 1
                else:
                    self._other(pos, kind)
                    if self.stopped:
                        return
                pos += size
            if 2 <= end - pos < _MIN_FPDU and int.from_bytes(view[pos : pos + 2], "big") < TAGGED_HEADER:
                raise short()
        except TerminateError as error:
            self._fail(error, bytes(view[pos : min(end, pos + _ULPDU + READ_REQUEST_ULPDU)]))
            return
        self._pos = pos
        if self._run is not None:
            self._pos = self._end = 0
        elif not self.has_heard and pos > start:
            self._first_heard()

    def _first_heard(self) -> None:
        self.has_heard = True
        self._core.heard()

    def _fail(self, error: TerminateError, fpdu: bytes) -> None:
        """Stop; ``fpdu`` starts with the header to blame, or is empty where none can be trusted."""
        self.stopped = True
        ulpdu = int.from_bytes(fpdu[:2], "big")
        header = b""
        if (error.layer, error.etype, error.code) not in WITHOUT_HEADER and len(fpdu) >= _TAGGED_DATA:
            header = segment_header(fpdu)
        self._core.failed(error, ulpdu, header)

    def _steer(self, pos: int, kind: int, ulpdu: int, stag: int, to: int) -> None:
        """Check the tagged header at ``pos`` and receive the rest of its payload in place."""
        length = ulpdu - TAGGED_HEADER
        if kind == OP_WRITE:
            region = self._region = self._regions.get(stag >> 8)
            if region is None:
                raise unknown(fault.TAGGED_INVALID_STAG, stag)
            pieces = region.slices(region.check(stag, to, length, REMOTE_WRITE, self._pd), length)
        elif kind == OP_READ_RESPONSE:
            self._region = None
            read = self._expect(stag, to, length)
            pieces = read.slices(read.got, length)
        else:
            raise unexpected(kind)
        data = pos + _TAGGED_DATA
        trailer = (-(ulpdu + _ULPDU) & 3) + 4
        run = self._run = Run(bytes(self._view[pos:data]), trailer, pieces, length)
        self._large = _LARGE_FOR
        if self.crc:
            self._crc = crc32c(self._view[pos : self._end])
        elif self._doubt:
            self._doubt -= 1
        elif kind == OP_READ_RESPONSE and not run.last and trailer == _MIN_TRAILER:
            run.foresee(read.slices, read.got + length, read.total - read.got - length)
        have = self._end - data
        if have:
            fill(pieces, self._view[data : self._end])
            run.took(have)

    def _send(self, pos: int, kind: int) -> None:
        """One segment of a Send into the posted receive that its message took."""
        ulpdu, control, stag, queue, msn, offset = UNTAGGED.unpack_from(self._buf, pos)
        length = ulpdu - UNTAGGED_HEADER
        if length < 0:
            raise short()
        if queue != QN_SEND:
            raise TerminateError(f"the peer sent a Send on queue {queue}", *fault.INVALID_QN)
        if msn != self._msn:
            raise TerminateError(f"the peer sent Send {msn} where {self._msn} is next", *fault.INVALID_MSN)
        if offset != self._recv_got:
            raise TerminateError(
                f"the peer sent offset {offset} of a Send where {self._recv_got} is next", *fault.INVALID_MO
            )
        recv = self.half_received
        if recv is None:
            if not self.receives:
                raise TerminateError(f"no receive is posted for Send {msn} of the peer", *fault.NO_BUFFER)
            recv = self.half_received = self.receives.popleft()
            self._message_op = kind
        elif kind != self._message_op:
            raise unexpected(kind)
        wr_id, buffer = recv
        total = offset + length
        if total > len(buffer):
            self.completions.append(WorkCompletion(wr_id, WcStatus.LOC_LEN_ERR, WcOpcode.RECV, 0))
            self.half_received = None
            raise TerminateError(
                f"the peer sent {total} bytes or more into a receive of {len(buffer)}", *fault.TOO_LONG
            )
        data = pos + _UNTAGGED_DATA
        buffer[offset:total] = self._view[data : data + length]
        if not control & CTRL_LAST:
            self._recv_got = total
            return
        if kind in _INVALIDATES:
            self._invalidate(stag)
        else:
            stag = 0
        self._msn = msn + 1 & MSN_MASK
        self.half_received = None
        self._recv_got = 0
        self.completions.append(_new(WorkCompletion, (wr_id, _SUCCESS, _RECV, total, stag)))

    def _invalidate(self, stag: int) -> None:
        region = self._regions.get(stag >> 8)
        if region is None or region.rkey != stag or not region.valid:
            raise unknown(fault.PROTECTION_INVALID_STAG, stag)
        if region.pd is not self._pd:
            raise unknown(fault.PROTECTION_NOT_ASSOCIATED, stag)
        region.invalidate()

    def _other(self, pos: int, kind: int) -> None:
        """Everything but Sends and Writes with data."""
        ulpdu, control, stag, to = TAGGED.unpack_from(self._buf, pos)
        if ulpdu < TAGGED_HEADER:
            raise short()
        if kind == OP_WRITE:
            return  # of nothing: no key is checked (RFC 5040 section 5.2)
        if kind == OP_READ_RESPONSE:
            length = ulpdu - TAGGED_HEADER
            read = self._expect(stag, to, length)
            data = pos + _TAGGED_DATA
            fill(read.slices(read.got, length), self._view[data : data + length])
            self._respond(length, control)
        elif kind == OP_READ_REQUEST:
            self._read_request(pos, ulpdu, control)
        elif kind == OP_TERMINATE:
            self._terminate(pos, ulpdu)
        else:
            raise unexpected(control)

    def _expect(self, stag: int, to: int, length: int) -> PendingRead:
        """The read that a Read Response segment belongs to: the oldest, at the place reached."""
        if not self.reads:
            raise TerminateError("the peer sent a Read Response that nobody asked for", *fault.UNEXPECTED_OPCODE)
        read = self.reads[0]
        if stag != read.stag:
            raise unknown(fault.TAGGED_INVALID_STAG, stag)
        if to != read.got or read.got + length > read.total:
            raise TerminateError(
                f"the peer sent {length} bytes at {to:#x} of a Read Response; {read.got} of {read.total} are here",
                *fault.TAGGED_BOUNDS,
            )
        return read

    def _respond(self, length: int, control: int) -> None:
        """A segment of the oldest read has been placed."""
        read = self.reads[0]
        read.got += length
        if not control & CTRL_LAST:
            return
        if read.got != read.total:
            raise TerminateError(
                f"the peer ended a Read Response of {read.total} bytes after {read.got}", *fault.TAGGED_BOUNDS
            )
        self.reads.popleft()
        if read.wr.signaled:
            self.completions.append(
                _new(WorkCompletion, (read.wr.wr_id, WcStatus.SUCCESS, WcOpcode.RDMA_READ, read.total, 0))
            )
        self._core.read_done()

    def _read_request(self, pos: int, ulpdu: int, control: int) -> None:
        self._check_untagged(pos, ulpdu, QN_READ_REQUEST, self._msn_read)
        if ulpdu < READ_REQUEST_ULPDU:
            raise short()
        if ulpdu > READ_REQUEST_ULPDU or not control & CTRL_LAST:
            raise TerminateError("the peer sent a Read Request of more than 28 bytes", *fault.TOO_LONG)
        if not self._core.may_serve():
            raise TerminateError("the peer sent more Read Requests than agreed", *fault.CATASTROPHIC_STREAM)
        sink_stag, sink_to, size, stag, to = READ_REQUEST.unpack_from(self._buf, pos + _UNTAGGED_DATA)
        region, offset = None, 0
        if sink_to + size > _TO_SPACE:
            raise TerminateError("the peer wants a Read Response that wraps its own sink", *fault.PROTECTION_TO_WRAP)
        if size:
            region = self._regions.get(stag >> 8)
            if region is None:
                raise unknown(fault.PROTECTION_INVALID_STAG, stag)
            offset = region.check(stag, to, size, REMOTE_READ, self._pd)
        self._msn_read = self._msn_read + 1 & MSN_MASK
        self._core.read_requested(ReadResponse(sink_stag, sink_to, size, region, stag, offset))

    def _terminate(self, pos: int, ulpdu: int) -> None:
        self._check_untagged(pos, ulpdu, QN_TERMINATE, 1)
        self.stopped = True
        data = pos + _UNTAGGED_DATA
        self._core.terminated(bytes(self._view[data : data + ulpdu - UNTAGGED_HEADER]))

    def _check_untagged(self, pos: int, ulpdu: int, expected_queue: int, expected_msn: int) -> None:
        if ulpdu < UNTAGGED_HEADER:
            raise short()
        _, _, _, queue, msn, offset = UNTAGGED.unpack_from(self._buf, pos)
        if queue != expected_queue:
            raise TerminateError(
                f"the peer used queue {queue} for a message of queue {expected_queue}", *fault.INVALID_QN
            )
        if msn != expected_msn:
            raise TerminateError(
                f"the peer used number {msn} on queue {queue} where {expected_msn} is next", *fault.INVALID_MSN
            )
        if offset:
            raise TerminateError(f"the peer used offset {offset} on queue {queue}", *fault.INVALID_MO)
