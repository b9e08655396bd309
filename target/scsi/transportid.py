"""TransportIDs of iSCSI initiator ports (SPC-4 7.6.4.6): a name and an ISID, as an I_T nexus is called here."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["decode_transport_id", "encode_transport_id"]

_WITH_ISID: Final = 0x45  # format 01b, protocol iSCSI
_SEPARATOR: Final = ",i,0x"
_LEAST: Final = 20


def encode_transport_id(name: str) -> bytes:
    """The TransportID of the port called ``iqn...,i,0x<ISID>``."""
    text = name.encode() + b"\0"
    text += bytes(max(_LEAST - len(text), -len(text) % 4))
    return struct.pack(">BxH", _WITH_ISID, len(text)) + text


def decode_transport_id(data: bytes) -> str | None:
    """The port's name; None for what is not the TransportID of an iSCSI port with its ISID."""
    if len(data) < 4 or data[0] != _WITH_ISID:
        return None
    length = int.from_bytes(data[2:4], "big")
    text = data[4 : 4 + length].rstrip(b"\0")
    if len(data) < 4 + length or not text.isascii() or not all(0x20 < byte < 0x7F for byte in text):
        return None
    name, separator, isid = text.decode().lower().partition(_SEPARATOR)
    if not separator or not name or not 1 <= len(isid) <= 12 or not all(digit in "0123456789abcdef" for digit in isid):
        return None
    return f"{name}{separator}{isid.rjust(12, '0')}"
