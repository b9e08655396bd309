"""Tests of target.workers.assignment."""

from __future__ import annotations

from target.access import AccessPolicy
from target.registry import ALL_NUMBERS
from target.workers.assignment import Assignment, session_numbers
from tests.target.workers.site import ONE, TWO, settings, target


def test_session_numbers_are_shared_out_without_rest() -> None:
    for workers in (1, 2, 3, 64):
        parts = [session_numbers(worker, workers) for worker in range(1, workers + 1)]
        assert sorted(number for part in parts for number in part) == list(ALL_NUMBERS)


def test_each_gets_its_targets_and_where_the_others_are() -> None:
    config = settings(target(ONE), target(TWO, portals=["tcp"]))
    assignment = Assignment(config, 2, {ONE: 1, TWO: 2}, {"tcp": (11, 12), "rdma": (21, 22)})
    assert [each.name for each in assignment.part(1).target] == [ONE]
    assert assignment.part(2).portal == config.portal
    share = assignment.share(1, AccessPolicy(), {})
    assert list(share.elsewhere) == [TWO]
    assert share.elsewhere[TWO].ports == {"tcp": 12, "rdma": 22}
    assert share.elsewhere[TWO].portals == {"tcp"}
    assert share.numbers[:2] == range(1, 5, 2)
    assert assignment.share(2, AccessPolicy(), {}).elsewhere[ONE].ports == {"tcp": 11, "rdma": 21}
