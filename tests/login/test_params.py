"""Wishes are checked when they are made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iser.errors import UsageError
from iser.login.params import Wishes


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Wishes(max_burst_length=100), "max_burst_length"),
        (lambda: Wishes(error_recovery_level=3), "error_recovery_level"),
        (lambda: Wishes(header_digest=("MD5",)), "header_digest"),
        (lambda: Wishes(header_digest=()), "header_digest"),
        (lambda: Wishes(max_burst_length=1024, first_burst_length=2048), "first_burst_length"),
    ],
)
def test_impossible_wishes_are_refused_by_name(make: Callable[[], Wishes], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make()


def test_a_wish_may_be_left_open() -> None:
    assert Wishes(max_burst_length=None).get("max_burst_length") is None
