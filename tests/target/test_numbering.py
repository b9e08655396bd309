"""Tests of target.numbering."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iser.pdu import sn_le
from target.numbering import Numbering


def test_the_window_closes_as_commands_come_and_opens_as_they_end() -> None:
    numbers = Numbering(10, 0, depth=2)
    assert [sn for sn in range(8, 14) if numbers.admits(sn)] == [10, 11]
    numbers.begin()
    numbers.begin()
    assert (numbers.exp_cmd_sn, numbers.max_cmd_sn) == (12, 11)
    assert not numbers.admits(12)
    numbers.end()
    assert numbers.admits(12)
    assert not numbers.admits(13)


def test_numbers_wrap() -> None:
    numbers = Numbering(0xFFFFFFFF, 0xFFFFFFFF, depth=4)
    assert numbers.max_cmd_sn == 2
    assert numbers.admits(1)
    numbers.begin()
    assert numbers.exp_cmd_sn == 0
    assert [numbers.next_stat_sn(), numbers.next_stat_sn()] == [0xFFFFFFFF, 0]


@given(st.integers(0, 0xFFFFFFFF), st.lists(st.booleans(), max_size=60))
def test_max_cmd_sn_never_goes_back(start: int, steps: list[bool]) -> None:
    numbers = Numbering(start, 0, depth=3)
    running = 0
    for begin in steps:
        before = numbers.max_cmd_sn
        if begin and numbers.admits(numbers.exp_cmd_sn):
            numbers.begin()
            running += 1
        elif running:
            numbers.end()
            running -= 1
        assert sn_le(before, numbers.max_cmd_sn)
        assert 0 <= running <= 3


def test_a_rejected_command_gives_its_number_and_its_place_back() -> None:
    numbers = Numbering(0xFFFFFFFF, 0, depth=2)
    last = numbers.max_cmd_sn
    numbers.begin()
    numbers.undo()
    assert (numbers.exp_cmd_sn, numbers.max_cmd_sn) == (0xFFFFFFFF, last)


def test_there_is_room_for_as_many_as_the_window_is_deep() -> None:
    numbers = Numbering(1, 0, depth=2)
    rooms = []
    for _ in range(2):
        rooms.append(numbers.room)
        numbers.begin()
    assert [*rooms, numbers.room] == [True, True, False]
    numbers.end()
    assert numbers.room
