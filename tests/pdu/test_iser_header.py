"""The 28-byte iSER headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, PduError
from iser.pdu.iser_header import (
    CONTROL,
    HELLO_REPLY,
    HELLO_REPLY_REJECT,
    ISER_HEADER_LENGTH,
    PLAIN_HEADER,
    RSV,
    WSV,
    Hello,
    HelloReply,
    IserHeader,
    build_control,
    build_header,
    build_header_into,
    parse_header,
)
from tests.pdu.values import values

# Recorded from LIO over siw: the headers of a command without data, a read, a write; and a kernel initiator's write.
RECORDED = [
    ("10000000" + "00" * 24, IserHeader()),
    (
        "14000000 00000000 0000000000000000 00aabb01 00007f0000001000",
        IserHeader(CONTROL | RSV, read_stag=0x00AABB01, read_base=0x7F0000001000),
    ),
    (
        "18000000 00aabb02 00007f0000002000 00000000 0000000000000000",
        IserHeader(CONTROL | WSV, write_stag=0x00AABB02, write_base=0x7F0000002000),
    ),
    (
        "18000000 80174f0e ff1100000dfaa000 00000000 0000000000000000",
        IserHeader(CONTROL | WSV, write_stag=0x80174F0E, write_base=0xFF1100000DFAA000),
    ),
]
BOTH = "1c000000 01020304 1112131415161718 21222324 3132333435363738"


@pytest.mark.parametrize(("wire", "header"), RECORDED)
def test_recorded_headers(wire: str, header: IserHeader) -> None:
    assert parse_header(bytes.fromhex(wire)) == header
    assert build_header(header) == bytes.fromhex(wire)


def test_both_directions_at_once() -> None:
    header = IserHeader(CONTROL | WSV | RSV, 0x01020304, 0x1112131415161718, 0x21222324, 0x3132333435363738)
    assert parse_header(bytes.fromhex(BOTH)) == header
    assert build_header(header) == bytes.fromhex(BOTH)


def test_the_plain_header() -> None:
    assert bytes([CONTROL]) + bytes(27) == PLAIN_HEADER
    assert parse_header(PLAIN_HEADER) == IserHeader()


@pytest.mark.parametrize("flags", range(0x10, 0x20))
def test_fields_without_their_valid_bit_read_as_zero(flags: int) -> None:
    wire = bytearray.fromhex(BOTH)
    wire[0] = flags
    header = parse_header(wire)
    assert isinstance(header, IserHeader)
    assert header.flags == flags & (CONTROL | WSV | RSV)
    assert header[1:3] == ((0x01020304, 0x1112131415161718) if flags & WSV else (0, 0))
    assert header[3:5] == ((0x21222324, 0x3132333435363738) if flags & RSV else (0, 0))


@pytest.mark.parametrize(
    "header",
    [
        IserHeader(CONTROL, write_stag=1),
        IserHeader(CONTROL | RSV, write_base=1),
        IserHeader(CONTROL | WSV, read_stag=1),
        IserHeader(CONTROL, read_base=1),
        IserHeader(CONTROL | 0x01),
        IserHeader(HELLO_REPLY),
        IserHeader(0),
        IserHeader(CONTROL | RSV, read_stag=1 << 32),
    ],
)
def test_headers_that_must_not_be_sent(header: IserHeader) -> None:
    with pytest.raises(LocalProtocolError):
        build_header(header)
    buffer = bytearray(b"\xaa" * 40)
    with pytest.raises(LocalProtocolError):
        build_header_into(buffer, 2, header)


@pytest.mark.parametrize(("wire", "header"), RECORDED)
def test_fields_alone_make_the_same_header(wire: str, header: IserHeader) -> None:
    flags, write_stag, write_base, read_stag, read_base = header
    plain = build_control((flags, write_stag, write_base, read_stag, read_base))
    assert plain == build_header(header) == bytes.fromhex(wire)
    with pytest.raises(LocalProtocolError, match=r"IserHeader\.read_base"):
        build_control((CONTROL | RSV, 0, 0, 1, -1))


def test_build_into_a_buffer() -> None:
    buffer = bytearray(b"\xaa" * 32)
    build_header_into(buffer, 2, RECORDED[1][1])
    assert buffer == b"\xaa\xaa" + bytes.fromhex(RECORDED[1][0]) + b"\xaa\xaa"
    assert parse_header(buffer, 2) == RECORDED[1][1]


def test_hello_and_its_reply() -> None:
    hello = Hello(versions=0xA1, iser_ird=16)
    reply = HelloReply(HELLO_REPLY | HELLO_REPLY_REJECT, 0x11, 8)
    assert build_header(hello) == bytes.fromhex("20a10010") + bytes(24)
    assert build_header(reply) == bytes.fromhex("31110008") + bytes(24)
    assert parse_header(build_header(hello)) == hello
    assert parse_header(build_header(reply)) == reply


@pytest.mark.parametrize("kind", [0x00, *range(0x40, 0x100, 0x10)])
def test_unknown_kinds_are_refused(kind: int) -> None:
    with pytest.raises(PduError, match=f"unknown kind {kind >> 4}"):
        parse_header(bytes([kind]) + bytes(27))


@given(st.binary(max_size=40))
def test_garbage_parses_or_is_refused(wire: bytes) -> None:
    try:
        header = parse_header(wire)
    except PduError:
        return
    assert len(wire) >= ISER_HEADER_LENGTH
    if isinstance(header, IserHeader):
        assert parse_header(build_header(header)) == header


@given(values(IserHeader))
def test_what_may_be_sent_comes_back(header: IserHeader) -> None:
    try:
        wire = build_header(header)
    except LocalProtocolError:
        return
    assert parse_header(wire) == header


@pytest.mark.parametrize("have", range(ISER_HEADER_LENGTH))
def test_truncated_at_every_byte(have: int) -> None:
    for wire in (PLAIN_HEADER, build_header(Hello()), build_header(HelloReply())):
        with pytest.raises(PduError):
            parse_header(wire[:have])
