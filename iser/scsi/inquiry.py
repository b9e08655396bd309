"""INQUIRY data taken apart: the standard data and the VPD pages (SPC-4 6.6 and 7.8, SBC-3 6.6).

Every parser takes what the peer sent, cut off or not, and raises PduError where the part that counts is missing.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from iser.errors import PduError
from iser.scsi.const import VpdPage

__all__ = [
    "DEVICE_TYPES",
    "BlockLimits",
    "Designator",
    "StandardInquiry",
    "parse_block_limits",
    "parse_designators",
    "parse_rotation_rate",
    "parse_serial",
    "parse_standard",
    "parse_supported_pages",
    "parse_thin",
]

#: Peripheral device types that a block initiator may meet.
DEVICE_TYPES: Final = {
    0x00: "disk",
    0x01: "tape",
    0x03: "processor",
    0x05: "CD/DVD",
    0x07: "optical memory",
    0x08: "media changer",
    0x0C: "storage array",
    0x0D: "enclosure",
    0x0E: "simplified disk",
    0x11: "object storage",
    0x14: "zoned disk",
    0x1E: "well known logical unit",
    0x1F: "no device",
}

_STANDARD = struct.Struct(">BBBBB3x8s16s4s")
_HEADER = struct.Struct(">BBH")


class StandardInquiry(NamedTuple):
    """Standard INQUIRY data; ``qualifier`` 0 means that a logical unit is connected."""

    qualifier: int
    device_type: int
    removable: bool
    version: int
    vendor: str
    product: str
    revision: str


class Designator(NamedTuple):
    """A designation descriptor; ``association`` 0 logical unit, 1 target port, 2 target device."""

    association: int
    kind: int
    code_set: int
    value: bytes

    @property
    def text(self) -> str:
        """The value as people write it: hexadecimal for a binary one."""
        return self.value.hex() if self.code_set == 1 else _text(self.value)


class BlockLimits(NamedTuple):
    """Block Limits page, in blocks; 0 means not reported."""

    granularity: int
    maximum: int
    optimal: int


def _text(raw: bytes) -> str:
    """Printable text: what a terminal could take for a command does not get through."""
    words = raw.rstrip(b"\0 ").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def parse_standard(data: bytes | memoryview) -> StandardInquiry:
    """Standard INQUIRY data, of which the first 36 bytes count; texts that were cut off are short."""
    if len(data) < 5:
        raise PduError(f"INQUIRY data of {len(data)} bytes is shorter than its header of 5")
    raw = bytes(data[: _STANDARD.size]).ljust(_STANDARD.size, b"\0")
    peripheral, removable, version, _, _, vendor, product, revision = _STANDARD.unpack(raw)
    texts = (_text(vendor), _text(product), _text(revision))
    return StandardInquiry(peripheral >> 5, peripheral & 0x1F, bool(removable & 0x80), version, *texts)


def _body(data: bytes | memoryview, page: VpdPage, least: int = 0) -> bytes:
    """What follows the header of VPD ``page``, at least ``least`` bytes."""
    if len(data) < _HEADER.size:
        raise PduError(f"VPD page of {len(data)} bytes is shorter than its header of 4")
    _, found, length = _HEADER.unpack_from(data)
    if found != page:
        raise PduError(f"asked for VPD page {page:#04x}, got page {found:#04x}")
    body = bytes(data[4 : 4 + length])
    if len(body) < least:
        raise PduError(f"VPD page {page:#04x} has {len(body)} bytes, fewer than the {least} that count")
    return body


def parse_supported_pages(data: bytes | memoryview) -> tuple[int, ...]:
    """Page codes of VPD page 00h."""
    return tuple(_body(data, VpdPage.SUPPORTED_PAGES))


def parse_serial(data: bytes | memoryview) -> str:
    """The serial number of VPD page 80h."""
    return _text(_body(data, VpdPage.UNIT_SERIAL_NUMBER)).strip()


def parse_designators(data: bytes | memoryview) -> tuple[Designator, ...]:
    """The designators of VPD page 83h; one that was cut off is left out."""
    rest = _body(data, VpdPage.DEVICE_IDENTIFICATION)
    found = []
    while len(rest) >= 4 and len(rest) >= 4 + rest[3]:
        value, kind = rest[4 : 4 + rest[3]], rest[1]
        found.append(Designator(kind >> 4 & 3, kind & 0x0F, rest[0] & 0x0F, value))
        rest = rest[4 + rest[3] :]
    return tuple(found)


def parse_block_limits(data: bytes | memoryview) -> BlockLimits:
    """The transfer limits of VPD page B0h."""
    return BlockLimits(*struct.unpack_from(">2xHII", _body(data, VpdPage.BLOCK_LIMITS, 12)))


def parse_rotation_rate(data: bytes | memoryview) -> int:
    """The medium rotation rate of VPD page B1h: 0 not reported, 1 non-rotating, else revolutions per minute."""
    return int.from_bytes(_body(data, VpdPage.BLOCK_DEVICE_CHARACTERISTICS, 2)[:2], "big")


def parse_thin(data: bytes | memoryview) -> bool:
    """Whether VPD page B2h says thin provisioned."""
    return _body(data, VpdPage.LOGICAL_BLOCK_PROVISIONING, 4)[2] & 0x07 == 2
