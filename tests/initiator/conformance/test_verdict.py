"""Tests of initiator.conformance.verdict."""

from __future__ import annotations

import pytest

from initiator.conformance.verdict import Failure, require


def test_what_does_not_hold_is_a_failure_in_those_words() -> None:
    require("anything", "not reached")
    with pytest.raises(Failure, match=r"^the target forgot it$"):
        require(0, "the target forgot it")
