"""Capacity data of peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import PduError
from iser.scsi.capacity import parse_capacity_10, parse_capacity_16


def test_capacities() -> None:
    small = parse_capacity_10(bytes.fromhex("0001ffff00000200"))
    assert small == (131072, 512)
    assert small is not None
    assert small.size == 64 << 20
    assert parse_capacity_16(bytes.fromhex("00000000ffffffff00001000") + bytes(20)).size == 1 << 44


def test_a_unit_too_large_for_ten_bytes_is_none() -> None:
    assert parse_capacity_10(bytes.fromhex("ffffffff00000200")) is None


@given(st.binary(max_size=32))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for parse in (parse_capacity_10, parse_capacity_16):
        try:
            capacity = parse(data)
        except PduError:
            continue
        assert capacity is None or capacity.blocks >= 1


def test_cut_short_or_senseless() -> None:
    with pytest.raises(PduError, match="7 bytes of 8"):
        parse_capacity_10(bytes(7))
    with pytest.raises(PduError, match="fewer than the 12"):
        parse_capacity_16(bytes(11))
    with pytest.raises(PduError, match="blocks of 0 bytes"):
        parse_capacity_16(bytes(32))
