"""Tests of iser.sg.strategies.split: the stretches that a list is cut into."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iser.sg import SgList
from iser.sg.strategies.split import runs
from tests.sg.lists import Arena, pieces


@given(pieces(512), st.sampled_from([512, 4096]))
def test_stretches_have_no_gap_and_are_whole_sectors_or_the_list_stays_whole(
    cut: list[tuple[int, int]], sector: int
) -> None:
    sg = SgList.of(Arena().cut(cut), writable=True)
    parts = runs(sg, sector)
    assert b"".join(part.gather() for part in parts) == sg.gather()
    if len(parts) > 1:
        assert all(part.shape.gaps == 0 and part.length % sector == 0 for part in parts)
        assert len(parts) == sg.shape.gaps + 1
    else:
        assert parts == [sg]
