"""TransportIDs of iSCSI (SPC-4 7.6.4.6): of an initiator port, by its name and ISID, or of a whole initiator."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["decode_initiator", "decode_transport_id", "encode_transport_id", "split_transport_ids"]

_WITH_ISID: Final = 0x45  # format 01b, protocol iSCSI
_INITIATOR: Final = 0x05  # format 00b
_SEPARATOR: Final = ",i,0x"
_LEAST: Final = 20


def encode_transport_id(name: str) -> bytes:
    """The TransportID of the port called ``iqn...,i,0x<ISID>``."""
    text = name.encode() + b"\0"
    text += bytes(max(_LEAST - len(text), -len(text) % 4))
    return struct.pack(">BxH", _WITH_ISID, len(text)) + text


def decode_transport_id(data: bytes) -> str | None:
    """The port's name; None for what is not the TransportID of an iSCSI port with its ISID."""
    text = _text(data, _WITH_ISID)
    name, separator, isid = (text or "").partition(_SEPARATOR)
    if not separator or not name or not 1 <= len(isid) <= 12 or not all(digit in "0123456789abcdef" for digit in isid):
        return None
    return f"{name}{separator}{isid.rjust(12, '0')}"


def decode_initiator(data: bytes) -> str | None:
    """The iSCSI name of a whole initiator, which has no ISID; None for what is not the TransportID of one."""
    name = _text(data, _INITIATOR)
    return None if not name or "," in name else name


def split_transport_ids(data: bytes) -> list[bytes] | None:
    """A list of TransportIDs, one after the other; None where the last one is cut off."""
    found = []
    while data:
        end = 4 + int.from_bytes(data[2:4], "big")
        if len(data) < end:
            return None
        found.append(data[:end])
        data = data[end:]
    return found


def _text(data: bytes, form: int) -> str | None:
    """The name in a TransportID of ``form``, in lower case; None for any other, and for what is no name."""
    if len(data) < 4 or data[0] != form:
        return None
    length = int.from_bytes(data[2:4], "big")
    text = data[4 : 4 + length].rstrip(b"\0")
    if len(data) < 4 + length or not all(0x20 < byte < 0x7F for byte in text):
        return None
    return text.decode().lower()
