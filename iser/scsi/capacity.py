"""READ CAPACITY data (SBC-3 5.15, 5.16)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from iser.errors import PduError
from iser.scsi.const import CAPACITY_10_MAX

__all__ = ["Capacity", "parse_capacity_10", "parse_capacity_16"]


class Capacity(NamedTuple):
    """The size of a logical unit: ``blocks`` of ``block_size`` bytes."""

    blocks: int
    block_size: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.blocks * self.block_size


def parse_capacity_10(data: bytes | memoryview) -> Capacity | None:
    """The capacity in READ CAPACITY(10) data; None when it does not fit and READ CAPACITY(16) must be asked.

    Raises PduError for data that is cut short or has a block size of 0.
    """
    if len(data) < 8:
        raise PduError(f"READ CAPACITY(10) data has {len(data)} bytes of 8")
    last, block_size = struct.unpack_from(">II", data)
    return None if last == CAPACITY_10_MAX else _capacity(last, block_size)


def parse_capacity_16(data: bytes | memoryview) -> Capacity:
    """The capacity in READ CAPACITY(16) data.  Raises PduError as :func:`parse_capacity_10`."""
    if len(data) < 12:
        raise PduError(f"READ CAPACITY(16) data has {len(data)} bytes, fewer than the 12 that count")
    return _capacity(*struct.unpack_from(">QI", data))


def _capacity(last: int, block_size: int) -> Capacity:
    if not block_size:
        raise PduError("the peer reports blocks of 0 bytes; it has no usable medium")
    return Capacity(last + 1, block_size)
