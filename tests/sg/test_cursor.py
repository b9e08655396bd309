"""Taking a list of views apart from front to back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from iser.sg.cursor import Cursor


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=8), st.lists(st.integers(0, 12), max_size=12), st.integers(0, 20))
def test_the_pieces_are_the_bytes_in_order(blobs: list[bytes], takes: list[int], start: int) -> None:
    whole = b"".join(blobs)
    cursor = Cursor([memoryview(blob) for blob in blobs], start)
    at = min(start, len(whole))
    for length in takes:
        assert b"".join(cursor.take(length)) == whole[at : at + length]
        at = min(at + length, len(whole))
        assert cursor.offset == at


def test_a_whole_view_is_given_out_as_it_is() -> None:
    view = memoryview(b"abc")
    assert Cursor([view]).take(3)[0] is view
