"""The state of persistent reservations, against the rules of SPC-4 as plain sentences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iser.scsi.const import ReservationType
from target.scsi.reservations import ALL_REGISTRANTS, Access, Persistent

NAMES = ["a", "b", "c"]
STEPS = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("reserve"), st.sampled_from(NAMES), st.sampled_from(ReservationType)),
    st.tuples(st.just("preempt"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("clear"), st.sampled_from(NAMES), st.none()),
)


@given(st.lists(STEPS, max_size=12))
def test_there_is_never_a_holder_that_is_not_registered(steps: list[tuple[str, str, int | str | None]]) -> None:
    state = Persistent()
    for kind, name, argument in steps:
        before = state
        if kind == "register":
            assert isinstance(argument, int)
            state = state.register([name], argument, False)
        elif name not in state.keys:
            continue
        elif kind == "reserve" and state.reservation is None:
            assert isinstance(argument, ReservationType)
            state = state.reserve(name, argument)
        elif kind == "preempt":
            state = state.preempt(name, {str(argument)}, None)
        elif kind == "clear":
            state = state.clear()
        assert state.generation - before.generation == (kind != "reserve")
        held = state.reservation
        assert held is None or (state.keys if held.type in ALL_REGISTRANTS else held.holder in state.keys)
        for other in NAMES:
            assert not state.conflicts(other, Access.FREE)
            assert not state.conflicts(other, Access.ALWAYS)
            if held is None or state.holds(other):
                assert not state.conflicts(other, Access.WRITE)
            if state.conflicts(other, Access.READ):
                assert state.conflicts(other, Access.WRITE)


def test_the_generation_wraps() -> None:
    assert Persistent(generation=0xFFFFFFFF).register(["a"], 1, False).generation == 0
