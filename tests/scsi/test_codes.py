"""Every sense code of ours has a name."""

from __future__ import annotations

from iser.scsi import codes


def test_every_code_that_we_send_has_a_name() -> None:
    ours = [value for value in vars(codes).values() if isinstance(value, codes.SenseCode)]
    assert len(ours) >= 14
    assert all((code.asc, code.ascq) in codes.ASC_NAMES for code in ours)


def test_unknown_codes_keep_their_numbers() -> None:
    assert codes.asc_name(0x24, 0x00) == "invalid field in the CDB"
    assert codes.asc_name(0x99, 0x07) == "additional sense 99/07"
