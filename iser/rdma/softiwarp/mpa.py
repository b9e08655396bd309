"""MPA connection set-up for both roles, without sockets: versions 1 and 2 (RFC 5044 section 7.1, RFC 6581 section 4).

A frame is a 16-byte key, flags, revision, the length of the private data and the private data.  In version 2 with the
enhanced flag the private data starts with the sender's own IRD and ORD and, in their top bits, what it can do about the
peer-to-peer first frame (RTR).  Markers are never used: a peer that wants them is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from iser.errors import ConnectionRejected, MpaError, TerminateError, UsageError
from iser.rdma.softiwarp.wire import fault

__all__ = [
    "MAX_PRIVATE_DATA",
    "MPA_HEADER_SIZE",
    "Agreed",
    "FrameReader",
    "MpaFrame",
    "MpaInitiator",
    "MpaResponder",
    "Rtr",
    "build_frame",
]

MAX_PRIVATE_DATA: Final = 512  # bytes, with the IRD/ORD prefix (RFC 5044 section 7.1.1)
MPA_HEADER_SIZE: Final = 20
READ_LIMIT_UNKNOWN: Final = 0x3FFF  # "no automatic negotiation" (RFC 6581 section 9.1)

_HEADER: Final = struct.Struct(">16sBBH")
_ENHANCED: Final = struct.Struct(">HH")
_REQUEST_KEY: Final = b"MPA ID Req Frame"
_REPLY_KEY: Final = b"MPA ID Rep Frame"

_FLAG_MARKERS: Final = 0x80
_FLAG_CRC: Final = 0x40
_FLAG_REJECT: Final = 0x20
_FLAG_ENHANCED: Final = 0x10

_PEER_TO_PEER: Final = 0x8000  # in the IRD word
_RTR_SEND: Final = 0x4000  # in the IRD word
_RTR_WRITE: Final = 0x8000  # in the ORD word
_RTR_READ: Final = 0x4000  # in the ORD word
_DEPTH: Final = 0x3FFF
_VERSION_2: Final = 2


class MpaFrame(NamedTuple):
    """A Request or Reply frame; ``private_data`` is as on the wire, with the prefix of an enhanced frame."""

    flags: int
    revision: int
    private_data: bytes

    @property
    def enhanced(self) -> bool:
        return self.revision == _VERSION_2 and bool(self.flags & _FLAG_ENHANCED)


class Rtr(Enum):
    """The zero-length first frame of a peer-to-peer connection."""

    NONE = "none"
    WRITE = "RDMA Write"
    READ = "RDMA Read"


@dataclass(frozen=True, slots=True)
class Agreed:
    """The outcome.  ``ird`` reads are served, ``ord`` may be outstanding, both in our terms."""

    crc: bool
    ird: int
    ord: int
    private_data: bytes
    rtr: Rtr = Rtr.NONE


def build_frame(frame: MpaFrame, *, reply: bool) -> bytes:
    """The wire form.  Raises UsageError when the private data is too long."""
    size = len(frame.private_data)
    if size > MAX_PRIVATE_DATA:
        raise UsageError(f"private data of {size} bytes with its prefix; an MPA frame holds {MAX_PRIVATE_DATA}")
    key = _REPLY_KEY if reply else _REQUEST_KEY
    return _HEADER.pack(key, frame.flags, frame.revision, size) + frame.private_data


class FrameReader:
    """Collects one frame.  Read at most ``needed`` bytes at a time: what follows a frame is no part of it."""

    __slots__ = ("_data", "_key", "needed")

    def __init__(self, *, reply: bool) -> None:
        self._key = _REPLY_KEY if reply else _REQUEST_KEY
        self._data = b""
        self.needed = MPA_HEADER_SIZE

    def feed(self, data: bytes) -> MpaFrame | None:
        """The frame, once it is whole.  Raises MpaError as soon as it cannot be one."""
        self._data += data
        have = len(self._data)
        if self._data[:16] != self._key[:have]:
            raise MpaError(f"the peer sent {self._data[:16]!r} where an MPA frame starts; it does not speak iWARP")
        if have < MPA_HEADER_SIZE:
            self.needed = MPA_HEADER_SIZE - have
            return None
        _, flags, revision, size = _HEADER.unpack_from(self._data)
        if size > MAX_PRIVATE_DATA:
            raise MpaError(
                f"the peer sent an MPA frame with {size} bytes of private data; {MAX_PRIVATE_DATA} are legal"
            )
        self.needed = MPA_HEADER_SIZE + size - have
        if self.needed > 0:
            return None
        return MpaFrame(flags, revision, self._data[MPA_HEADER_SIZE : MPA_HEADER_SIZE + size])


class MpaInitiator:
    """The active side.  ``ird`` reads we serve, ``ord`` we want outstanding; ``crc`` asks for CRCs.

    Raises UsageError for what no frame can say.
    """

    __slots__ = ("_crc", "_ird", "_ord", "_peer_to_peer", "request")

    def __init__(
        self,
        private_data: bytes,
        *,
        ird: int,
        ord: int,
        crc: bool,
        version: int = 2,
        peer_to_peer: bool = False,
    ) -> None:
        self._crc = crc
        self._ird = ird
        self._ord = ord
        self._peer_to_peer = peer_to_peer and version == _VERSION_2
        flags = _FLAG_CRC if crc else 0
        if version == _VERSION_2:
            # A peer that sees no read depth from us could never fetch the data of a write.
            self._ird = max(1, ird)
            flags |= _FLAG_ENHANCED
            rtr = (_PEER_TO_PEER, _RTR_WRITE | _RTR_READ) if self._peer_to_peer else (0, 0)
            private_data = _enhanced(self._ird, ord, *rtr) + private_data
        #: The bytes to send.
        self.request: bytes = build_frame(MpaFrame(flags, version, private_data), reply=False)

    def reply(self, frame: MpaFrame) -> Agreed:
        """What the reply agrees to.

        Raises ConnectionRejected, MpaError for a reply that does not answer our request, and TerminateError where the
        standard wants a Terminate.
        """
        revision = self.request[17]
        if frame.flags & _FLAG_REJECT:
            data = frame.private_data[_ENHANCED.size :] if frame.enhanced else frame.private_data
            raise ConnectionRejected("the peer refused the connection", data)
        if frame.flags & _FLAG_MARKERS:
            raise MpaError("the peer wants MPA markers, which are not supported; switch them off there")
        if frame.revision != revision:
            raise MpaError(f"the peer answered MPA version {revision} with {frame.revision}; set mpa_version to that")
        crc = self._crc or bool(frame.flags & _FLAG_CRC)
        if revision != _VERSION_2:
            return Agreed(crc, self._ird, self._ord, frame.private_data)
        if not frame.enhanced or len(frame.private_data) < _ENHANCED.size:
            raise MpaError("the peer answered MPA version 2 without IRD and ORD; set mpa_version to 1")
        ird_word, ord_word = _ENHANCED.unpack_from(frame.private_data)
        peer_ird, peer_ord = ird_word & _DEPTH, ord_word & _DEPTH
        if peer_ord != READ_LIMIT_UNKNOWN and peer_ord > self._ird:
            raise TerminateError(f"the peer wants {peer_ord} reads, we serve {self._ird}", *fault.INSUFFICIENT_IRD)
        depth = self._ord if peer_ird == READ_LIMIT_UNKNOWN else min(self._ord, peer_ird)
        rtr = self._rtr(ird_word, ord_word)
        return Agreed(crc, self._ird, depth, frame.private_data[_ENHANCED.size :], rtr)

    def _rtr(self, ird_word: int, ord_word: int) -> Rtr:
        if not self._peer_to_peer or not ird_word & _PEER_TO_PEER:
            return Rtr.NONE
        if ord_word & _RTR_WRITE:
            return Rtr.WRITE
        if ord_word & _RTR_READ:
            return Rtr.READ
        raise TerminateError("the peer names no first frame that was offered", *fault.NO_MATCHING_RTR)


class MpaResponder:
    """The passive side, made from the request.

    ``fault`` says why the request must be refused, or is None.  ``peer_ird`` and ``peer_ord`` are the reads that the
    peer serves and wants, None where it does not say.
    """

    __slots__ = ("_request", "_rtr", "fault", "peer_ird", "peer_ord", "private_data")

    def __init__(self, request: MpaFrame) -> None:
        self._request = request
        self._rtr = (0, 0)
        self.fault: str | None = None
        self.peer_ird: int | None = None
        self.peer_ord: int | None = None
        self.private_data = request.private_data
        if request.flags & _FLAG_MARKERS:
            self.fault = "wants MPA markers, which are not supported"
        elif request.revision not in (1, _VERSION_2):
            self.fault = f"speaks MPA version {request.revision}; 1 and 2 are supported"
        elif request.flags & _FLAG_REJECT:
            self.fault = "sent an MPA Request with the reject flag"
        elif request.enhanced:
            self._read_enhanced()

    def _read_enhanced(self) -> None:
        data = self.private_data
        if len(data) < _ENHANCED.size:
            self.fault = "announced IRD and ORD and did not send them"
            return
        ird_word, ord_word = _ENHANCED.unpack_from(data)
        self.private_data = data[_ENHANCED.size :]
        if ird_word & _DEPTH != READ_LIMIT_UNKNOWN:
            self.peer_ird = ird_word & _DEPTH
        if ord_word & _DEPTH != READ_LIMIT_UNKNOWN:
            self.peer_ord = ord_word & _DEPTH
        if ird_word & _PEER_TO_PEER:
            read_only = ord_word & (_RTR_WRITE | _RTR_READ) == _RTR_READ
            self._rtr = (_PEER_TO_PEER, _RTR_READ if read_only else _RTR_WRITE)

    def accept(self, private_data: bytes, *, ird: int, ord: int, crc: bool) -> tuple[bytes, Agreed]:
        """The Reply and what it agrees to: ``ird`` and ``ord`` are our wishes, cut to what the peer said.

        Raises UsageError when the private data is too long.
        """
        request = self._request
        crc = crc or bool(request.flags & _FLAG_CRC)
        flags = _FLAG_CRC if crc else 0
        if self.peer_ord is not None:
            ird = min(ird, self.peer_ord)
        if self.peer_ird is not None:
            ord = min(ord, self.peer_ird)
        if request.enhanced:
            flags |= _FLAG_ENHANCED
            private_data = _enhanced(ird, ord, *self._rtr) + private_data
        frame = build_frame(MpaFrame(flags, request.revision, private_data), reply=True)
        return frame, Agreed(crc, ird, ord, self.private_data)

    def reject(self, private_data: bytes = b"") -> bytes:
        """The Reply that refuses.  Raises UsageError when the private data is too long."""
        flags = _FLAG_REJECT
        if self._request.enhanced:
            flags |= _FLAG_ENHANCED
            private_data = _enhanced(0, 0, 0, 0) + private_data
        revision = self._request.revision if self._request.revision == 1 else _VERSION_2
        return build_frame(MpaFrame(flags, revision, private_data), reply=True)


def _enhanced(ird: int, ord: int, ird_bits: int, ord_bits: int) -> bytes:
    if not 0 <= ird < READ_LIMIT_UNKNOWN or not 0 <= ord < READ_LIMIT_UNKNOWN:
        raise UsageError(f"read depths {ird} and {ord}: give numbers from 0 to {READ_LIMIT_UNKNOWN - 1}")
    return _ENHANCED.pack(ird | ird_bits, ord | ord_bits)
