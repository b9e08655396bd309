from __future__ import annotations

from initiator.bench.cases import Case
from initiator.bench.goals import goals_of
from initiator.bench.result import Result, Slice
from tests.initiator.bench.results import made_up, measurement


def test_goals_of_the_core_cut() -> None:
    result = made_up()
    goals = {goal.what: goal for goal in goals_of(result)}
    exact = next(goal for what, goal in goals.items() if what.startswith("indirect on S8"))
    assert (exact.value, exact.reached) == ("0, 1, 1", True)
    (one,) = result.find(strategy="indirect", shape="S8", size=524288, write=False, depth=8)
    (two,) = result.find(strategy="frwr", shape="S0", size=524288, write=False, depth=8)
    goal = goals["512 KiB read, depth 8: indirect on S8 / frwr on S0"]
    assert goal.value == str(one.times(two))
    assert goal.reached == (one.rate / two.rate >= 0.92)
    assert "1 MiB contiguous write, depth 8 / plain sockets" in goals
    one.counts["bytes_copied"] = 1
    assert not next(goal for goal in goals_of(result) if goal.what.startswith("indirect on S8")).reached


def test_a_goal_missed_by_less_than_the_spread_is_open() -> None:
    for rates, verdict in (((1.2, 1.3, 1.4), "yes"), ((1.0, 1.1, 1.2), "open"), ((1.0, 1.1, 1.12), "no")):
        found = []
        for strategy, speeds in (("indirect", rates), ("bounce", (1.0, 1.0, 1.0))):
            found.append(measurement(Case(strategy, "S4", 65536, False, 8, "remote")))
            found[-1].slices = [Slice(65536 / speed, 1, 0, 0) for speed in speeds]
        goals = goals_of(Result("unaligned", {}, {}, found))
        assert [goal.verdict for goal in goals if goal.what.endswith("indirect / bounce")] == [verdict]


def test_no_cases_no_goals() -> None:
    assert goals_of(Result("unaligned", {}, {})) == []
