"""The 64-bit LUN field and the LUN number that it stands for (SAM-5 4.7)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from iser.errors import PduError, UsageError

__all__ = ["MAX_LUN", "REPORT_LUNS_WLUN", "build_lun_list", "decode_lun", "encode_lun", "lun_forms", "parse_lun_list"]

#: The highest LUN number of the flat space addressing method.
MAX_LUN: Final = 0x3FFF
#: The LUN field of the REPORT LUNS well known logical unit.
REPORT_LUNS_WLUN: Final = 0xC101 << 48

_PERIPHERAL_MAX = 0xFF
_FLAT = 1
_REST = (1 << 48) - 1


def encode_lun(lun: int) -> int:
    """The LUN field for ``lun``: peripheral device addressing up to 255, flat space up to 16383.

    Raises UsageError outside of 0 to 16383.
    """
    if not 0 <= lun <= MAX_LUN:
        raise UsageError(f"LUN {lun} cannot be addressed; use 0 to {MAX_LUN}")
    return (lun if lun <= _PERIPHERAL_MAX else _FLAT << 14 | lun) << 48


def decode_lun(field: int) -> int:
    """The LUN number in ``field``.

    Raises PduError for what names no LUN of one level: other addressing methods, a bus, or bytes past the first two.
    """
    first = field >> 48
    method, value = first >> 14, first & MAX_LUN
    if field & _REST or method not in (0, _FLAT) or (method == 0 and value > _PERIPHERAL_MAX):
        raise PduError(f"LUN field {field:016x} is neither peripheral nor flat addressing of one level", reason=0x09)
    return value


def lun_forms(lun: int) -> tuple[int, ...]:
    """Every LUN field that stands for ``lun``: the one of :func:`encode_lun` and, up to 255, the flat one too."""
    flat = (_FLAT << 14 | lun) << 48
    return (encode_lun(lun), flat) if lun <= _PERIPHERAL_MAX else (encode_lun(lun),)


def build_lun_list(luns: Iterable[int]) -> bytes:
    """REPORT LUNS parameter data for LUN numbers (SPC-4 6.33)."""
    fields = [encode_lun(lun) for lun in luns]
    return struct.pack(f">I4x{len(fields)}Q", 8 * len(fields), *fields)


def parse_lun_list(data: bytes | memoryview) -> Sequence[int]:
    """The LUN numbers in REPORT LUNS data, as many as are there; well known logical units are passed over.

    Raises PduError for data shorter than its header, or a LUN in a form that :func:`decode_lun` refuses.
    """
    if len(data) < 8:
        raise PduError(f"REPORT LUNS data of {len(data)} bytes is shorter than its header of 8")
    count = min(int.from_bytes(data[:4], "big"), len(data) - 8) // 8
    fields = struct.unpack_from(f">{count}Q", data, 8)
    return [decode_lun(field) for field in fields if field >> 62 != 3]
