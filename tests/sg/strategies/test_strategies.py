"""Tests of iser.sg.strategies: the table of them."""

from __future__ import annotations

from iser.sg.strategies import BOUNCE, STRATEGIES


def test_names_are_those_of_the_table_and_fallbacks_exist() -> None:
    assert all(name == kind.name for name, kind in STRATEGIES.items())
    assert STRATEGIES[BOUNCE].copies
    assert {kind.fallback for kind in STRATEGIES.values()} <= {*STRATEGIES, "auto"}
