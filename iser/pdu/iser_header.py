"""The 28-byte iSER headers, RFC 7145 section 9: of a control PDU, Hello and HelloReply.

The upper nibble of byte 0 tells them apart.  A control header's write or read fields count only with their valid bit
(WSV, RSV): without it they are zero when sent and ignored on receipt.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from construct import Int8ub, Int16ub, Int32ub, Int64ub

from iser.errors import LocalProtocolError, PduError
from iser.pdu.layout import At, FastCodec, ReadBuffer, WriteBuffer

__all__ = [
    "CONTROL",
    "HELLO",
    "HELLO_REPLY",
    "HELLO_REPLY_REJECT",
    "ISER_HEADER_LENGTH",
    "PLAIN_HEADER",
    "RSV",
    "WSV",
    "ControlFields",
    "Hello",
    "HelloReply",
    "IserHeader",
    "build_control",
    "build_header",
    "build_header_into",
    "parse_header",
]

ISER_HEADER_LENGTH: Final = 28

CONTROL: Final = 0x10
HELLO: Final = 0x20
HELLO_REPLY: Final = 0x30
KIND_MASK: Final = 0xF0

WSV: Final = 0x08  # write STag and base valid
RSV: Final = 0x04  # read STag and base valid
HELLO_REPLY_REJECT: Final = 0x01

Flags = Annotated[int, At(0, Int8ub)]
Versions = Annotated[int, At(1, Int8ub)]


class IserHeader(NamedTuple):
    """Header of an iSCSI control PDU, RFC 7145 section 9.2.

    ``flags`` is CONTROL with WSV and RSV; the bases are tagged offsets in bytes.
    """

    flags: Flags = CONTROL
    write_stag: Annotated[int, At(4, Int32ub)] = 0
    write_base: Annotated[int, At(8, Int64ub)] = 0
    read_stag: Annotated[int, At(16, Int32ub)] = 0
    read_base: Annotated[int, At(20, Int64ub)] = 0


class Hello(NamedTuple):
    """iSER Hello, RFC 7145 section 9.3.  ``versions`` is MaxVer and MinVer, 4 bits each; ``iser_ird`` in messages."""

    flags: Flags = HELLO
    versions: Versions = 0xAA
    iser_ird: Annotated[int, At(2, Int16ub)] = 0


class HelloReply(NamedTuple):
    """iSER HelloReply, RFC 7145 section 9.4.  ``versions`` is MaxVer and CurVer, 4 bits each; ``iser_ord`` likewise."""

    flags: Flags = HELLO_REPLY
    versions: Versions = 0xAA
    iser_ord: Annotated[int, At(2, Int16ub)] = 0


_CONTROL: Final = FastCodec(IserHeader, ISER_HEADER_LENGTH)
_HELLO: Final = FastCodec(Hello, ISER_HEADER_LENGTH)
_HELLO_REPLY: Final = FastCodec(HelloReply, ISER_HEADER_LENGTH)

_PLAIN: Final = IserHeader()
PLAIN_HEADER: Final = _CONTROL.build(_PLAIN)  # of every PDU that names no buffer

#: The fields of an :class:`IserHeader` in its order, without the cost of making one.
ControlFields = tuple[int, int, int, int, int]

_parse_control: Final = _CONTROL.parse
_build_control: Final = _CONTROL.build
_build_control_into: Final = _CONTROL.build_into


def parse_header(buffer: ReadBuffer, offset: int = 0) -> IserHeader | Hello | HelloReply:
    """The iSER header at ``offset``; invalid fields of a control header read as zero, reserved flag bits too.

    Raises :class:`PduError` for fewer than 28 bytes and for a header of no known kind.
    """
    header = _parse_control(buffer, offset)
    flags = header[0]
    if flags & KIND_MASK == CONTROL:
        valid = flags & (WSV | RSV)
        if not valid:
            return _PLAIN
        _, write_stag, write_base, read_stag, read_base = header
        if valid == RSV:
            return IserHeader(CONTROL | RSV, 0, 0, read_stag, read_base)
        if valid == WSV:
            return IserHeader(CONTROL | WSV, write_stag, write_base, 0, 0)
        return IserHeader(CONTROL | WSV | RSV, write_stag, write_base, read_stag, read_base)
    if flags & KIND_MASK == HELLO:
        return _HELLO.parse(buffer, offset)
    if flags & KIND_MASK == HELLO_REPLY:
        return _HELLO_REPLY.parse(buffer, offset)
    raise PduError(f"the peer sent an iSER header of unknown kind {flags >> 4}; only 1, 2 and 3 exist")


def build_header(header: IserHeader | Hello | HelloReply) -> bytes:
    """The 28 bytes of ``header``; :class:`LocalProtocolError` for a field out of range or without its valid bit."""
    if isinstance(header, IserHeader):
        _check(header)
        return _build_control(header)
    if isinstance(header, Hello):
        return _HELLO.build(header)
    return _HELLO_REPLY.build(header)


def build_control(fields: ControlFields) -> bytes:
    """As :func:`build_header` of an :class:`IserHeader` with these fields, whose flags the caller has right.

    Raises :class:`LocalProtocolError` for a field out of range.
    """
    wire: bytes = _build_control(fields)  # type: ignore[arg-type]  # it takes any tuple
    return wire


def build_header_into(buffer: WriteBuffer, offset: int, header: IserHeader) -> None:
    """As :func:`build_header`, of a control header, into ``buffer`` at ``offset``."""
    _check(header)
    _build_control_into(buffer, offset, header)


def _check(header: IserHeader) -> None:
    flags, write_stag, write_base, read_stag, read_base = header
    if flags & ~(WSV | RSV) != CONTROL:
        raise LocalProtocolError(f"IserHeader.flags = {flags:#x}: give CONTROL, with WSV and RSV where they apply")
    if not flags & WSV and (write_stag or write_base):
        raise LocalProtocolError("an iSER header with a write STag or base but no WSV; set the flag or leave them 0")
    if not flags & RSV and (read_stag or read_base):
        raise LocalProtocolError("an iSER header with a read STag or base but no RSV; set the flag or leave them 0")
