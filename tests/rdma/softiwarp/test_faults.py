"""What a wrong segment is answered with."""

from __future__ import annotations

import pytest

from iser.rdma.softiwarp.faults import WITHOUT_HEADER, invalidated, short, unexpected, unknown
from iser.rdma.softiwarp.wire import OP_SEND, OP_WRITE, Fault, fault


@pytest.mark.parametrize(
    ("control", "what", "text"),
    [
        (OP_WRITE ^ 0x0300, fault.TAGGED_VERSION, "DDP version 2"),
        (OP_SEND ^ 0x0100, fault.UNTAGGED_VERSION, "DDP version 0"),
        (OP_SEND ^ 0x00C0, fault.RDMAP_VERSION, "RDMAP version 2"),
        (OP_SEND | 0x000F, fault.UNEXPECTED_OPCODE, "opcode 15"),
    ],
)
def test_a_control_word_is_judged_by_its_first_fault(control: int, what: Fault, text: str) -> None:
    error = unexpected(control)
    assert (error.layer, error.etype, error.code) == what
    assert text in str(error)
    assert what in WITHOUT_HEADER


def test_a_fault_of_a_key_names_the_key_and_its_header() -> None:
    for error in (unknown(fault.TAGGED_INVALID_STAG, 0xAB12), invalidated(0xAB12)):
        assert "0x0000ab12" in str(error)
        assert (error.layer, error.etype, error.code) == fault.TAGGED_INVALID_STAG
    assert fault.TAGGED_INVALID_STAG not in WITHOUT_HEADER


def test_an_fpdu_that_is_too_short_is_a_bad_frame() -> None:
    error = short()
    assert (error.layer, error.etype, error.code) == fault.BAD_FPDU
