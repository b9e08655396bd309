"""Tests of initiator.conformance.region."""

from __future__ import annotations

from initiator.conformance.region import Region


def test_a_region_shows_the_bytes_that_are_there_now() -> None:
    memory = bytearray(b"..abc...de")
    region = Region([memoryview(memory)[2:5], memoryview(memory)[8:]], 0x1000, 7)
    assert (region.length, region.memory) == (5, b"abcde")
    memory[2] = ord("X")
    assert region.memory == b"Xbcde"
