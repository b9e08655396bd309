"""Unit attentions: what waits for whom, in which order."""

from __future__ import annotations

from iser.scsi.codes import BUS_DEVICE_RESET, COMMANDS_CLEARED, POWER_ON, REPORTED_LUNS_CHANGED
from target.scsi import Nexus
from tests.target.scsi.bench import unit


def test_each_unit_starts_with_power_on() -> None:
    first, second = unit(), unit()
    nexus = Nexus("i", [first, second])
    assert nexus.take_attention(first) == POWER_ON
    assert nexus.take_attention(first) is None
    assert nexus.take_attention(second) == POWER_ON
    assert not nexus.pending


def test_a_condition_waits_once_and_a_reset_covers_what_was_before_it() -> None:
    lu = unit()
    nexus = Nexus("i")
    for _ in range(3):
        nexus.raise_attention(lu, COMMANDS_CLEARED)
    assert nexus.pending == {lu: [COMMANDS_CLEARED]}
    nexus.raise_attention(lu, BUS_DEVICE_RESET)
    nexus.raise_attention(lu, COMMANDS_CLEARED)
    assert [nexus.take_attention(lu) for _ in range(3)] == [BUS_DEVICE_RESET, COMMANDS_CLEARED, None]


def test_what_an_initiator_learned_otherwise_waits_nowhere() -> None:
    first, second = unit(), unit()
    nexus = Nexus("i", [first])
    for lu in (first, second):
        nexus.raise_attention(lu, REPORTED_LUNS_CHANGED)
    nexus.withdraw(REPORTED_LUNS_CHANGED)
    assert nexus.pending == {first: [POWER_ON]}
