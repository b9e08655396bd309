"""Serial numbers, and the names that must not drift."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iser.pdu import const
from iser.pdu.const import RejectReason, Stage, sn_add, sn_le, sn_lt

serials = st.integers(0, 0xFFFFFFFF)
steps = st.integers(1, 0x7FFFFFFF)


def test_comparison_goes_around_zero() -> None:
    assert sn_lt(0xFFFFFFFF, 0)
    assert not sn_lt(0, 0xFFFFFFFF)
    assert sn_le(0xFFFFFFF0, 5)
    assert sn_add(0xFFFFFFFF, 1) == 0
    assert sn_add(0, -1) == 0xFFFFFFFF


@given(serials, steps)
def test_what_is_added_comes_after(a: int, n: int) -> None:
    b = sn_add(a, n)
    assert sn_lt(a, b)
    assert sn_le(a, b)
    assert not sn_lt(b, a)
    assert not sn_le(b, a)
    assert sn_add(b, -n) == a


@given(serials)
def test_a_number_is_not_before_itself_nor_its_opposite(a: int) -> None:
    opposite = sn_add(a, 0x80000000)
    assert not sn_lt(a, a)
    assert sn_le(a, a)
    assert not sn_lt(a, opposite)
    assert not sn_lt(opposite, a)


def test_login_flags_compose_what_a_peer_sends() -> None:
    flags = const.LOGIN_TRANSIT | Stage.OPERATIONAL << const.LOGIN_CSG_SHIFT | Stage.FULL_FEATURE
    assert flags == 0x87
    assert flags >> const.LOGIN_CSG_SHIFT & const.LOGIN_STAGE_MASK == Stage.OPERATIONAL


def test_reject_reasons_are_those_of_the_standard() -> None:
    assert [int(reason) for reason in RejectReason] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
