from __future__ import annotations

from typing import Any

import pytest

from initiator.bench.cases import CORE, FULL, QUICK, RAW_TCP, Axes, Case, cases_of, is_legal, run_lengths
from iser.errors import UsageError


def case(strategy: str, shape: str, size: int = 65536, *, write: bool = False) -> Case:
    return Case(strategy, shape, size, write, 1, "remote")


@pytest.mark.parametrize("plan", [QUICK, CORE, FULL])
def test_every_case_is_there_once_and_those_of_a_group_together(plan: tuple[Axes, ...]) -> None:
    cases = cases_of(plan, embedded=True)
    assert len(set(cases)) == len({each.key for each in cases}) == len(cases)
    groups = [each.group for each in cases]
    seen = [group for number, group in enumerate(groups) if number == 0 or groups[number - 1] != group]
    assert len(seen) == len(set(seen))


def test_a_foreign_target_has_no_peer_for_our_own_protocols() -> None:
    assert {"multi_mr", RAW_TCP} & {each.strategy for each in cases_of(CORE, embedded=True)}
    assert not {"multi_mr", RAW_TCP} & {each.strategy for each in cases_of(CORE, embedded=False)}


@pytest.mark.parametrize(
    ("one", "legal"),
    [
        (case("frwr", "S2"), True),
        (case("frwr", "S8"), False),
        (case("frwr", "Smix(0.1)"), True),
        (case("indirect", "S12"), False),
        (case("bounce", "S12"), True),
        (case("bounce", "S12", write=True), False),
        (case("dma_key", "S1"), True),
        (case("dma_key", "S2"), False),
        (case("mr512", "S4"), True),
        (case("mr512", "S5"), False),
        (case("split", "S5"), True),
        (case("split", "S8"), False),
        (case("multi_mr", "S8"), True),
        (case("multi_mr", "S4", 524288), False),  # more keys than fit a message
        (case("immediate", "S8", 4096, write=True), True),
        (case("immediate", "S8", 65536, write=True), False),
        (case("immediate", "S8", 4096), False),
        (case("indirect", "S9", 512), False),
        (case("raw_tcp", "S0"), True),
        (case("raw_tcp", "S2"), False),
    ],
)
def test_what_serves_what(one: Case, legal: bool) -> None:
    assert is_legal(one) is legal


def test_keys_that_stay_are_invalidated_by_nobody() -> None:
    axes = Axes(("S0",), (4096,), (1,), ("dma_key", "frwr", "bounce_pool", "immediate"), ("remote", "local"))
    found = [(each.strategy, each.invalidate) for each in cases_of((axes,), embedded=True) if not each.write]
    assert found == [("dma_key", "none"), ("frwr", "remote"), ("bounce_pool", "none"), ("frwr", "local")]


def test_stretches_without_gaps() -> None:
    assert run_lengths([(0, 4096), (8192, 4096), (20480 + 512, 100), (20480 + 612, 4)]) == [8192, 104]


@pytest.mark.parametrize(
    "changes",
    [{"shapes": ("S13",)}, {"sizes": (1000,)}, {"depths": (0,)}, {"strategies": ("best",)}, {"invalidate": ("none",)}],
)
def test_axes_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"choose among|give"):
        Axes(**({"shapes": ("S0",), "sizes": (4096,), "depths": (1,)} | changes))
