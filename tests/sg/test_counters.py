"""Tests of iser.sg.counters."""

from __future__ import annotations

from iser.sg import RegistrationCounters


def test_a_copy_stays_as_it_was() -> None:
    counters = RegistrationCounters(stags=1)
    counters.by_strategy["frwr"] += 1
    before = counters.copy()
    counters.stags += 1
    counters.by_strategy["frwr"] += 1
    counters.fallbacks["overlap"] += 1
    assert (before.stags, before.by_strategy, before.fallbacks) == (1, {"frwr": 1}, {})


def test_the_difference_is_of_every_count() -> None:
    counters = RegistrationCounters(commands=5, bytes_copied=100)
    counters.by_strategy.update(frwr=2, bounce=1)
    before = counters.copy()
    counters.commands += 2
    counters.by_strategy.update(bounce=3)
    difference = counters.since(before)
    assert (difference.commands, difference.bytes_copied) == (2, 0)
    assert difference.by_strategy == {"bounce": 3}
    assert counters.since(counters) == RegistrationCounters()
