"""Formats and the Terminate message."""

from __future__ import annotations

import pytest

from iser.rdma.softiwarp import wire
from iser.rdma.softiwarp.wire import Fault, build_terminate, fault, fpdu_size, parse_terminate, segment_header


@pytest.mark.parametrize(
    ("ulpdu", "size"), [(14, 20), (18, 24), (15, 24), (16, 24), (17, 24), (50, 56), (65534, 65540)]
)
def test_an_fpdu_is_padded_to_four_and_has_a_crc_field(ulpdu: int, size: int) -> None:
    assert fpdu_size(ulpdu) == size
    assert (2 + ulpdu + (size - 6 - ulpdu)) % 4 == 0


def test_headers_have_the_sizes_of_the_standard() -> None:
    assert wire.TAGGED.size == 2 + wire.TAGGED_HEADER
    assert wire.UNTAGGED.size == 2 + wire.UNTAGGED_HEADER
    assert wire.READ_REQUEST_ULPDU == 46


# Recorded from the Linux kernel's siw on x86, which mirrors the control word: the ULP part, what it means, and the
# other reading where the bytes cannot tell.
RECORDED = [
    ("110003000004c140deadbe000000000000001000", Fault(1, 1, 0x00), None),
    ("02020000", Fault(2, 0, 0x02), None),
    ("21030300004c41430000000000000000000000020000000000000000", Fault(1, 2, 0x03), None),
    ("20060000", Fault(2, 0, 0x06), Fault(0, 2, 0x06)),
    (
        "10000700000041410000000000000001000000400000000000000077000000000000200000000040deadbe000000000000003000",
        Fault(0, 1, 0x00),
        None,
    ),
]


@pytest.mark.parametrize(("raw", "meaning", "alternative"), RECORDED)
def test_terminates_of_the_linux_kernel(raw: str, meaning: Fault, alternative: Fault | None) -> None:
    message = parse_terminate(bytes.fromhex(raw))
    assert message.fault == meaning
    assert message.alternative == alternative
    assert raw in str(message.error("10.0.0.1:3260"))


def _faults() -> list[Fault]:
    return [each for each in vars(fault).values() if isinstance(each, Fault)]


@pytest.mark.parametrize("what", _faults())
@pytest.mark.parametrize("header", [b"", bytes.fromhex("c140deadbe000000000000001000")])
def test_our_terminates_can_be_read_back(what: Fault, header: bytes) -> None:
    message = parse_terminate(build_terminate(what, 18, header))
    assert what in (message.fault, message.alternative)
    if header:
        assert message.fault == what


def test_a_terminate_names_the_segment_that_failed() -> None:
    header = bytes.fromhex("c140deadbe000000000000001000")
    raw = build_terminate(fault.TAGGED_BOUNDS, 18, header)
    assert raw.hex() == "1101c0000012" + header.hex()


def test_a_terminate_about_a_read_request_carries_all_of_it() -> None:
    request = bytes.fromhex(
        "002e41410000000000000001000000010000000000000077000000000000200000000040deadbe000000000000003000"
    )
    header = segment_header(request)
    assert header == request[2:48]
    assert build_terminate(fault.PROTECTION_INVALID_STAG, 46, header)[:6].hex() == "0100e000002e"


@pytest.mark.parametrize("raw", ["", "11", "1100c0"])
def test_a_cut_terminate_reads_as_an_unspecified_error(raw: str) -> None:
    assert parse_terminate(bytes.fromhex(raw)).fault == fault.LOCAL_CATASTROPHIC
