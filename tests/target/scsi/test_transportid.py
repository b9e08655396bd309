"""TransportIDs."""

from __future__ import annotations

import pytest

from target.scsi.transportid import decode_initiator, decode_transport_id, encode_transport_id, split_transport_ids


@pytest.mark.parametrize("name", ["iqn.2026-11.a:x,i,0x00023d000001", "a,i,0x400000000000"])
def test_round_trip(name: str) -> None:
    data = encode_transport_id(name)
    assert len(data) % 4 == 0
    assert len(data) >= 24
    assert (data[0], int.from_bytes(data[2:4], "big")) == (0x45, len(data) - 4)
    assert data[-1] == 0
    assert decode_transport_id(data) == name


def test_short_isids_are_filled_up() -> None:
    assert decode_transport_id(b"\x45\0\0\x0ciqn,i,0x2A\0\0") == "iqn,i,0x00000000002a"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x45",
        b"\x05\0\0\x08iqn.x\0\0\0",
        b"\x45\0\0\x20iqn,i,0x2",
        b"\x45\0\0\x08iqn.x\0\0\0",
        b"\x45\0\0\x0ciqn,i,0xzz\0\0",
        b"\x45\0\0\x0c\xc3\xa4,i,0x12\0\0\0",
        b"\x45\0\0\x0c,i,0x123456\0\0"[:16],
        b"\x45\0\0\x18iqn,i,0x12345678901234\0\0",
    ],
)
def test_what_is_none(data: bytes) -> None:
    assert decode_transport_id(data) is None


def test_a_whole_initiator_has_no_isid() -> None:
    assert decode_initiator(b"\x05\0\0\x08iqn.X\0\0\0") == "iqn.x"
    assert decode_initiator(b"\x05\0\0\x08iqn.x,i\0") is None
    assert decode_initiator(b"\x05\0\0\x04\0\0\0\0") is None
    assert decode_initiator(encode_transport_id("iqn.x,i,0x000000000001")) is None


def test_a_list_is_split_at_the_lengths_that_it_gives() -> None:
    one, two = encode_transport_id("iqn.a,i,0x000000000001"), b"\x05\0\0\x08iqn.X\0\0\0"
    assert split_transport_ids(one + two) == [one, two]
    assert split_transport_ids(b"") == []
    for cut in (1, 3, 5):
        assert split_transport_ids((one + two)[:-cut]) is None
