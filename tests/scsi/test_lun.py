"""LUN fields and LUN lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iser.errors import PduError, UsageError
from iser.scsi.lun import (
    MAX_LUN,
    REPORT_LUNS_WLUN,
    build_lun_list,
    decode_lun,
    encode_lun,
    lun_forms,
    parse_lun_list,
)


@given(st.integers(0, MAX_LUN))
def test_every_form_decodes_to_its_lun(lun: int) -> None:
    assert encode_lun(lun) in lun_forms(lun)
    assert {decode_lun(field) for field in lun_forms(lun)} == {lun}


def test_forms_on_the_wire() -> None:
    assert encode_lun(0) == 0
    assert encode_lun(1).to_bytes(8, "big").hex() == "0001000000000000"
    assert encode_lun(255).to_bytes(8, "big").hex() == "00ff000000000000"
    assert encode_lun(256).to_bytes(8, "big").hex() == "4100000000000000"
    assert lun_forms(1) == (0x0001 << 48, 0x4001 << 48)


@pytest.mark.parametrize("lun", [-1, MAX_LUN + 1])
def test_numbers_that_no_form_holds(lun: int) -> None:
    with pytest.raises(UsageError, match="use 0 to 16383"):
        encode_lun(lun)


@pytest.mark.parametrize(
    "field",
    ["0100000000000000", "8000000000000000", "c101000000000000", "0001000100000000", "0000000000000001"],
    ids=["a bus", "logical unit addressing", "well known", "second level", "trailing byte"],
)
def test_bad_forms_are_refused(field: str) -> None:
    with pytest.raises(PduError, match=field):
        decode_lun(int(field, 16))


@given(st.lists(st.integers(0, MAX_LUN), max_size=20), st.integers(8, 200))
def test_lists_round_trip_and_may_be_cut(luns: list[int], cut: int) -> None:
    data = build_lun_list(luns)
    assert len(data) == 8 + 8 * len(luns)
    assert list(parse_lun_list(data)) == luns
    assert list(parse_lun_list(data[:cut])) == luns[: (cut - 8) // 8]


def test_lists_with_well_known_units_and_without_a_header() -> None:
    data = bytes.fromhex("0000001000000000") + REPORT_LUNS_WLUN.to_bytes(8, "big") + bytes(8)
    assert list(parse_lun_list(data)) == [0]
    with pytest.raises(PduError, match="shorter than its header"):
        parse_lun_list(bytes(7))


@given(st.binary(max_size=64))
def test_any_list_parses_or_is_refused(data: bytes) -> None:
    try:
        luns = parse_lun_list(data)
    except PduError:
        return
    assert all(0 <= lun <= MAX_LUN for lun in luns)
