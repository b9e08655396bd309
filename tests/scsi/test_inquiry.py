"""INQUIRY data of peers: real bytes, cut bytes, any bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import PduError
from iser.scsi.inquiry import (
    parse_block_limits,
    parse_designators,
    parse_rotation_rate,
    parse_serial,
    parse_standard,
    parse_supported_pages,
    parse_thin,
)

#: Recorded from LIO over siw.
LIO = bytes.fromhex("000006025bb800024c494f2d4f52472052414d4449534b2d4d43502020202020342e3020")

PARSERS: list[Callable[[bytes], object]] = [
    parse_standard,
    parse_supported_pages,
    parse_serial,
    parse_designators,
    parse_block_limits,
    parse_rotation_rate,
    parse_thin,
]


def test_standard_data_of_lio() -> None:
    assert parse_standard(LIO) == (0, 0, False, 6, "LIO-ORG", "RAMDISK-MCP", "4.0")
    assert parse_standard(LIO[:20]).product == "RAMD"
    with pytest.raises(PduError, match="shorter than its header"):
        parse_standard(LIO[:4])


def test_texts_that_would_upset_a_terminal_are_made_harmless() -> None:
    assert parse_standard(LIO[:8] + b"\x1b[2J\xff  ").vendor == "?[2J\ufffd"


def test_pages() -> None:
    assert parse_supported_pages(bytes.fromhex("00000003008083")) == (0x00, 0x80, 0x83)
    assert parse_serial(b"\x00\x80\x00\x06 ab12 ") == "ab12"
    limits = b"\x00\xb0\x00\x3c" + bytes.fromhex("0000000800004000000001000000") + bytes(46)
    assert parse_block_limits(limits) == (8, 0x4000, 0x100)
    assert parse_rotation_rate(bytes.fromhex("00b1003c0001") + bytes(58)) == 1
    assert parse_thin(bytes.fromhex("00b2000400000200"))
    assert not parse_thin(bytes.fromhex("00b2000400000000"))


def test_designators_whole_and_cut() -> None:
    page = bytes.fromhex("008300180103000831234567 89abcdef53a80008") + b"iqn.x\0\0\0"
    naa, name = parse_designators(page)
    assert (naa.association, naa.kind, naa.text) == (0, 3, "3123456789abcdef")
    assert (name.association, name.kind, name.text) == (2, 8, "iqn.x")
    assert parse_designators(page[:-1]) == (naa,)


def test_the_wrong_page_is_named() -> None:
    with pytest.raises(PduError, match="asked for VPD page 0x80, got page 0x00"):
        parse_serial(bytes.fromhex("00000003008083"))
    with pytest.raises(PduError, match="fewer than the 12"):
        parse_block_limits(bytes.fromhex("00b0003c0000"))


@given(st.sampled_from(PARSERS), st.binary(max_size=80), st.sampled_from([None, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]))
def test_any_bytes_parse_or_are_refused(parse: Callable[[bytes], object], data: bytes, page: int | None) -> None:
    if page is not None and len(data) > 1:
        data = data[:1] + bytes((page,)) + data[2:]
    try:
        parse(data)
    except PduError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
