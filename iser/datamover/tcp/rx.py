"""The receiving half of the framing: bytes in, digests checked, PDUs out, data placed where it belongs.

The shell asks :meth:`Receiver.get_buffers` where the next bytes go.  Small PDUs are staged and copied, which is cheaper
than one more system call; when much of a data segment is still missing, it goes from the socket straight to its
destination.  Header and data are checked before anything is done with a PDU, but for data that is placed in place: it
counts only when its digest was right.  That is taken of each part as it comes, for others may write to the same place
before the rest is here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from typing import Any, Final, Protocol

from crc32c import crc32c

from iser.datamover.api import QuickStart
from iser.datamover.tcp.wire import BHS_LENGTH, DIGEST_LENGTH, digest
from iser.errors import PduError, RemoteProtocolError
from iser.pdu import OPCODE_MASK, Pdu, RejectReason, ScsiCommand, decode_bhs, parse_ahs
from iser.sg import scatter

__all__ = ["RECV_SIZE", "STAGING_SIZE", "STEER_MIN", "Receiver", "Upcalls"]

RECV_SIZE: Final = 64 << 10  # bytes asked for at once when nothing is received in place
STAGING_SIZE: Final = 160 << 10  # a PDU of which less than STEER_MIN is missing, and RECV_SIZE more
STEER_MIN: Final = 16 << 10  # missing data from which receiving in place pays
STEER_PIECES: Final = 512  # views handed out at once for one data segment
_TAIL: Final = 64  # staging after data received in place: padding, digest and the next header
_SCRATCH: Final = memoryview(bytearray(64 << 10))  # where unwanted data goes; nobody reads it

_PREFIX: Final = struct.Struct(">BxxxI")  # the opcode with the immediate bit, and the lengths of AHS and data
_SCSI_COMMAND: Final = 0x01


class Upcalls(Protocol):
    """What the receiver asks of the datamover.  Errors that come out of them end the receiving."""

    def pdu_received(self, pdu: Pdu) -> None:
        """A PDU; ``data`` is valid during the call."""

    def malformed(self, error: PduError, bhs: bytes) -> None:
        """A PDU that cannot be parsed, but whose end is known."""

    def destination(self, bhs: Any) -> Sequence[memoryview] | None:
        """Where the data of a data PDU goes; None to have it in :meth:`pdu_received`."""

    def placed(self, bhs: Any) -> None:
        """The data of a PDU that :meth:`destination` took is there."""


class Receiver:
    """``data_opcode`` is that of the PDUs to ask a destination for; ``max_data`` the longest data segment, in bytes."""

    __slots__ = (
        "_bhs",
        "_buf",
        "_data",
        "_data_opcode",
        "_digest",
        "_dst",
        "_end",
        "_first",
        "_header",
        "_left",
        "_owner",
        "_pos",
        "_trailer",
        "data_digest",
        "header_digest",
        "max_data",
        "quick",
        "stopped",
    )

    def __init__(self, owner: Upcalls, data_opcode: int, max_data: int) -> None:
        self._owner = owner
        self._data_opcode = data_opcode
        self.max_data = max_data
        self.header_digest = False
        self.data_digest = False
        self.quick: QuickStart | None = None  # asked first for SCSI Commands
        self.stopped = False
        # Anonymous memory: an idle connection has only those pages that it ever used.
        self._buf = memoryview(mmap.mmap(-1, STAGING_SIZE))
        self._first = [self._buf[:RECV_SIZE]]
        self._pos = self._end = 0  # the staged bytes not yet parsed
        # The data segment being received in place.
        self._left = 0  # bytes still missing
        self._trailer = 0  # padding and digest after it
        self._header = b""
        self._bhs: Any = None  # None when it is to be handed up
        self._dst: list[memoryview] = []
        self._digest: int | None = None  # of what is here of it; None for no digest, or none that matters
        self._data: memoryview | None = None

    @property
    def mid_message(self) -> bool:
        """Would the stream end inside a PDU now?"""
        return bool(self._left or self._trailer or self._pos != self._end)

    def get_buffers(self) -> list[memoryview]:
        """Where the next bytes go."""
        if self.stopped:
            return [_SCRATCH]
        if self._left:
            dst = self._dst
            if len(dst) > STEER_PIECES:
                return dst[:STEER_PIECES]
            return [*dst, self._buf[:_TAIL]]
        pos, end = self._pos, self._end
        if pos == end:
            self._pos = self._end = 0
            return self._first
        if end + RECV_SIZE > STAGING_SIZE:
            self._buf[: end - pos] = self._buf[pos:end]
            self._pos, self._end = 0, end - pos
            end -= pos
        return [self._buf[end : end + RECV_SIZE]]

    def received(self, count: int) -> None:
        """``count`` bytes were put where :meth:`get_buffers` said: handle all that is complete.

        Raises RemoteProtocolError, and what the up-calls raise.
        """
        if self.stopped:
            return
        if self._left:
            count = self._fill(count)
            self._pos, self._end = 0, count
            if self._left:
                return
        else:
            self._end += count
        if self._header and not self._finish_steered():
            return
        self._parse()

    def stop(self) -> None:
        """Receive nothing more, and let go of all memory but the caller's own."""
        self.stopped = True
        self._left = self._trailer = self._pos = self._end = 0
        self._dst, self._digest, self._bhs, self._data, self._header = [], None, None, None, b""
        self._buf = _SCRATCH
        self._first = [_SCRATCH]

    def redirect(self, *, itt: int) -> None:
        """Throw away the rest of the data that is being received in place for task ``itt``, if it is."""
        if self._left and self._bhs is not None and self._bhs.itt == itt:
            self._dst = discarded(self._left)
            self._digest = None

    # In place

    def _fill(self, count: int) -> int:
        """Account for bytes received in place; returns how many came after the data."""
        placed = min(count, self._left)
        if self._digest is not None:
            self._digest = _digest_of(self._dst, placed, self._digest)
        self._left -= placed
        if not self._left:
            self._dst = []
            return count - placed
        dst = self._dst
        full = 0
        for piece in dst:
            if placed < len(piece):
                break
            placed -= len(piece)
            full += 1
        del dst[:full]
        if placed:
            dst[0] = dst[0][placed:]
        return 0

    def _steer(self, pos: int, header: int, start: int, length: int, padded: int) -> None:
        """Receive the rest of the data of the PDU at ``pos`` in place."""
        buf = self._buf
        pieces: Sequence[memoryview] | None = None
        self._bhs = self._data = None
        if buf[pos] & OPCODE_MASK == self._data_opcode:
            bhs = decode_bhs(buf, pos)
            pieces = self._owner.destination(bhs)
            if pieces is not None:
                self._bhs = bhs
        if pieces is None:
            self._data = memoryview(bytearray(length))
            pieces = (self._data,)
        self._header = bytes(buf[pos : pos + header])
        # What is thrown away lies in one place, one part over the other.
        self._digest = 0 if self.data_digest and pieces[0].obj is not _SCRATCH.obj else None
        self._dst = list(pieces)
        self._left = length
        self._trailer = padded - length + (DIGEST_LENGTH if self.data_digest else 0)
        data, end = pos + start, self._end
        while data < end:
            piece = self._dst[0]
            part = min(end - data, len(piece))
            piece[:part] = buf[data : data + part]
            data += part
            self._fill(part)

    def _finish_steered(self) -> bool:
        """Check and hand on what was received in place, once its padding and digest are here."""
        trailer = self._trailer
        if self._end < trailer:
            return False
        header, bhs, data = self._header, self._bhs, self._data
        if self._digest is not None:
            padded = trailer - DIGEST_LENGTH
            value = crc32c(self._buf[:padded], self._digest)
            if value != int.from_bytes(self._buf[padded:trailer], "little"):
                raise self._wrong_data_digest(header[:BHS_LENGTH])
        self._trailer = 0
        self._pos = trailer
        self._header, self._bhs, self._data, self._digest = b"", None, None, None
        if bhs is not None:
            self._owner.placed(bhs)
        else:
            assert data is not None
            quick = self.quick
            plain = header[0] == _SCSI_COMMAND and len(header) == BHS_LENGTH
            if not plain or quick is None or not quick(header, 0, data):
                self._hand_up(header, 0, len(header), data)
        return True

    # Staged

    def _parse(self) -> None:  # noqa: PLR0912, PLR0915 - the hot loop; a call per step would double its price
        buf, owner, quick = self._buf, self._owner, self.quick
        pos, end = self._pos, self._end
        while end - pos >= BHS_LENGTH and not self.stopped:
            opcode, lengths = _PREFIX.unpack_from(buf, pos)
            header = BHS_LENGTH
            length = lengths
            if lengths > 0xFFFFFF:
                header += lengths >> 22 & ~3
                length &= 0xFFFFFF
            start = header
            if self.header_digest:
                start += DIGEST_LENGTH
                if end - pos < start:
                    break
                if digest(buf[pos : pos + header]) != buf[pos + header : pos + start]:
                    raise RemoteProtocolError(
                        "the peer sent a PDU with a wrong header digest; the stream is out of step"
                    )
            if not length:
                if end - pos < start:
                    break
                at, self._pos = pos, pos + start
                pos = self._pos
                if opcode != _SCSI_COMMAND or quick is None or header != BHS_LENGTH or not quick(buf, at, b""):
                    self._hand_up(buf, at, header, b"")
                continue
            if length > self.max_data:
                raise self._too_long(pos, length)
            padded = length + 3 & ~3
            size = start + padded + (DIGEST_LENGTH if self.data_digest else 0)
            missing = size - end + pos
            if missing > 0:
                if missing >= STEER_MIN and end - pos >= start:
                    self._steer(pos, header, start, length, padded)
                    pos = end = 0
                break
            data = pos + start
            if self.data_digest and digest(buf[data : data + padded]) != buf[data + padded : pos + size]:
                raise self._wrong_data_digest(bytes(buf[pos : pos + BHS_LENGTH]))
            at, self._pos = pos, pos + size
            pos = self._pos
            segment = buf[data : data + length]
            if opcode == _SCSI_COMMAND:
                if quick is not None and header == BHS_LENGTH and quick(buf, at, segment):
                    continue
            elif opcode & OPCODE_MASK == self._data_opcode:
                bhs = decode_bhs(buf, at)
                pieces = owner.destination(bhs)
                if pieces is not None:
                    scatter(segment, pieces)
                    owner.placed(bhs)
                    continue
            self._hand_up(buf, at, header, segment)
        if not self.stopped:
            self._pos, self._end = pos, end

    def _hand_up(self, buf: bytes | memoryview, at: int, header: int, data: bytes | memoryview) -> None:
        try:
            bhs = decode_bhs(buf, at)
            if header == BHS_LENGTH:
                pdu = Pdu(bhs, data)
            else:
                if not isinstance(bhs, ScsiCommand):
                    raise PduError(f"the peer sent a {type(bhs).__name__} with AHS", RejectReason.INVALID_PDU_FIELD)
                pdu = Pdu(bhs, data, parse_ahs(bytes(buf[at + BHS_LENGTH : at + header])))
        except PduError as error:
            self._owner.malformed(error, bytes(buf[at : at + BHS_LENGTH]))
            return
        self._owner.pdu_received(pdu)

    def _too_long(self, pos: int, length: int) -> RemoteProtocolError:
        error = PduError(f"the peer sent a data segment of {length} bytes; at most {self.max_data} are allowed")
        self._owner.malformed(error, bytes(self._buf[pos : pos + BHS_LENGTH]))
        return error

    def _wrong_data_digest(self, bhs: bytes) -> RemoteProtocolError:
        error = PduError("the peer sent data with a wrong digest", RejectReason.DATA_DIGEST_ERROR)
        self._owner.malformed(error, bhs)
        return error


def _digest_of(pieces: Sequence[memoryview], count: int, value: int) -> int:
    """``value`` with the first ``count`` bytes of ``pieces``."""
    for piece in pieces:
        if count <= 0:
            break
        value = crc32c(piece[:count], value)
        count -= len(piece)
    return value


def discarded(length: int) -> list[memoryview]:
    """Memory for ``length`` bytes that nobody wants; 256 views for the longest data segment."""
    whole, rest = divmod(length, len(_SCRATCH))
    return [_SCRATCH] * whole + ([_SCRATCH[:rest]] if rest else [])
