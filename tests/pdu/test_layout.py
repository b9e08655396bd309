"""The two codecs that are derived from one declaration."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import pytest
from construct import BytesInteger, Int8ub, Int16ub, Int24ub, Int32ub, Int32ul
from hypothesis import given, settings
from hypothesis import strategies as st

from iser.errors import LocalProtocolError, PduError, UsageError
from iser.pdu.ahs import BidiReadLength
from iser.pdu.bhs import BHS_LENGTH, BHS_TYPES, LoginRequest, NopIn, ScsiCommand
from iser.pdu.iser_header import ISER_HEADER_LENGTH, Hello, HelloReply, IserHeader
from iser.pdu.layout import At, FastCodec, construct_of
from tests.pdu.values import places, values

FORMATS: list[tuple[type[Any], int]] = [
    *((cls, BHS_LENGTH) for cls in BHS_TYPES.values()),
    *((cls, ISER_HEADER_LENGTH) for cls in (IserHeader, Hello, HelloReply)),
]
CODECS = {cls: (FastCodec(cls, length), construct_of(cls, length)) for cls, length in FORMATS}
every_format = pytest.mark.parametrize(("cls", "length"), FORMATS, ids=[cls.__name__ for cls, _ in FORMATS])


class Shuffled(NamedTuple):
    """Declared in another order than it stands on the wire, with gaps everywhere."""

    last: Annotated[int, At(9, Int16ub)]
    first: Annotated[int, At(1, Int24ub)]
    middle: Annotated[int, At(5, Int8ub)]


@every_format
@settings(max_examples=40)
@given(data=st.data())
def test_fast_and_construct_build_the_same_bytes(cls: type[Any], length: int, data: st.DataObject) -> None:
    fast, clear = CODECS[cls]
    value = data.draw(values(cls))
    wire = fast.build(value)
    assert len(wire) == length
    assert wire == clear.build(value._asdict())
    assert fast.parse(wire) == value


@every_format
@settings(max_examples=40)
@given(data=st.data())
def test_fast_and_construct_read_the_same_fields(cls: type[Any], length: int, data: st.DataObject) -> None:
    fast, clear = CODECS[cls]
    wire = data.draw(st.binary(min_size=length, max_size=length))
    value = fast.parse(wire)
    read = clear.parse(wire)
    assert type(value) is cls
    assert value == cls(**{name: read[name] for name in value._fields})


@every_format
def test_reserved_bytes_are_sent_as_zero_and_ignored_on_receipt(cls: type[Any], length: int) -> None:
    fast, _ = CODECS[cls]
    taken = {at.offset + i for at in places(cls).values() for i in range(at.subcon.sizeof())}
    reserved = [i for i in range(length) if i not in taken]
    wire = fast.build(cls())
    dirty = bytearray(wire)
    for i in reserved:
        assert wire[i] == 0
        dirty[i] = 0xFF
    assert fast.parse(dirty) == cls()
    into = bytearray(b"\xff" * length)
    fast.build_into(into, 0, cls())
    assert into == wire


@every_format
def test_every_field_refuses_what_does_not_fit(cls: type[Any], length: int) -> None:
    fast, _ = CODECS[cls]
    for name, at in places(cls).items():
        size = at.subcon.sizeof()
        default = getattr(cls(), name)
        wrong: list[object] = [None, 1.5, "x"]
        if isinstance(default, bytes):
            wrong += [bytes(size - 1), bytes(size + 1), 0, "x" * size]
        else:
            wrong += [-1, 1 << 8 * size, b"x"]
        for each in wrong:
            value = cls()._replace(**{name: each})
            with pytest.raises(LocalProtocolError, match=rf"{cls.__name__}\.{name} = "):
                fast.build(value)
            with pytest.raises(LocalProtocolError, match=rf"{cls.__name__}\.{name} = "):
                fast.build_into(bytearray(length), 0, value)


@every_format
def test_short_buffers_are_refused_at_every_length(cls: type[Any], length: int) -> None:
    fast, _ = CODECS[cls]
    wire = fast.build(cls())
    for have in range(length):
        with pytest.raises(PduError, match=f"sent {have} bytes where a {cls.__name__} takes {length}"):
            fast.parse(wire[:have])
        with pytest.raises(PduError, match=f"sent {have} bytes"):
            fast.parse(b"xxx" + wire[:have], 3)
        with pytest.raises(LocalProtocolError, match="do not fit the buffer"):
            fast.build_into(bytearray(have), 0, cls())


def test_an_offset_beyond_the_buffer_is_a_short_buffer() -> None:
    with pytest.raises(PduError, match="sent 0 bytes"):
        FastCodec(NopIn).parse(b"", 7)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_read_at_an_offset(kind: type[Any]) -> None:
    fast = FastCodec(ScsiCommand)
    command = ScsiCommand(itt=7, edtl=4096, cdb=bytes(range(16)))
    assert fast.parse(kind(b"abc" + fast.build(command) + b"def"), 3) == command


def test_build_into_leaves_the_bytes_around_alone() -> None:
    fast = FastCodec(LoginRequest)
    buffer = bytearray(b"\xaa" * 60)
    fast.build_into(memoryview(buffer)[2:], 4, LoginRequest(isid=b"abcdef"))
    assert buffer[:6] == b"\xaa" * 6
    assert buffer[6:54] == fast.build(LoginRequest(isid=b"abcdef"))
    assert buffer[54:] == b"\xaa" * 6


def test_build_into_a_read_only_buffer_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="do not fit the buffer"):
        FastCodec(NopIn).build_into(memoryview(bytes(48)), 0, NopIn())


def test_declaration_order_is_free() -> None:
    value = Shuffled(last=0x0A0B, first=0x010203, middle=0x55)
    wire = bytes.fromhex("00 010203 00 55 000000 0a0b 00")
    fast, clear = FastCodec(Shuffled, 12), construct_of(Shuffled, 12)
    assert fast.build(value) == wire == clear.build(value._asdict())
    assert fast.parse(wire) == value


class Overlapping(NamedTuple):
    """Two fields on byte 3."""

    one: Annotated[int, At(0, Int32ub)]
    two: Annotated[int, At(3, Int8ub)]


class LittleEndian(NamedTuple):
    """A subcon that the fast form does not know."""

    one: Annotated[int, At(0, Int32ul)]


class Odd(NamedTuple):
    """An integer of a width that the fast form does not know."""

    one: Annotated[int, At(0, BytesInteger(5))]


@pytest.mark.parametrize("cls", [Overlapping, LittleEndian, Odd, BidiReadLength])
def test_declarations_without_sense_are_refused(cls: type[Any]) -> None:
    with pytest.raises(UsageError):
        FastCodec(cls)
    with pytest.raises(UsageError):
        construct_of(cls)


def test_a_field_beyond_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match="beyond the 47 bytes"):
        FastCodec(ScsiCommand, 47)
