"""Tests of iser.datamover.cm."""

from __future__ import annotations

import pytest

from iser.datamover.cm import build_private_data, invalidation_offered


def test_the_bytes_are_those_of_the_kernel() -> None:
    assert build_private_data(remote_invalidate=True) == bytes.fromhex("80000000")
    assert build_private_data(remote_invalidate=False) == bytes.fromhex("c0000000")


@pytest.mark.parametrize(
    ("data", "offered"),
    [("80000000", True), ("00000000", True), ("c0000000", False), ("40000000", False), ("", False), ("8000", False)],
)
def test_silence_is_not_agreement(data: str, offered: bool) -> None:
    assert invalidation_offered(bytes.fromhex(data)) is offered
    if offered:
        assert invalidation_offered(bytes.fromhex(data) + bytes(52))  # InfiniBand pads it
