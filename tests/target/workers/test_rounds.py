"""Tests of target.workers.rounds: what a reload has to leave for later; the rest is tested through the supervisor."""

from __future__ import annotations

from target.config.values import Listen
from target.workers.rounds import Item, find_late, leave_out
from tests.target.workers.site import ONE, PORTALS, TWO, lun, settings, target

BOUND = {"tcp": Listen("127.0.0.1", 11, "tcp"), "rdma": Listen("127.0.0.1", 12, "iser")}
FILE = lun(backend="file", path="/a/disk")


def test_nothing_is_late_that_nobody_else_uses() -> None:
    old = settings(target(ONE, FILE), target(TWO))
    owners = {ONE: 1, TWO: 2}
    same_worker = settings(target(ONE), target(TWO, FILE))
    assert find_late(old, same_worker, owners, {ONE: 1, TWO: 1}, BOUND) == []
    assert find_late(old, old, owners, owners, BOUND) == []
    new_port = settings(portal=PORTALS | {"more": {"listen": "iscsi://127.0.0.1:13"}})
    assert find_late(old, new_port, owners, owners, BOUND) == []


def test_a_store_of_another_worker_and_a_port_of_a_portal_that_goes_are_late() -> None:
    old = settings(target(ONE, FILE), target(TWO))
    owners = {ONE: 1, TWO: 2}
    moved = settings(target(ONE), target(TWO, lun(), FILE | {"id": 4}))
    assert find_late(old, moved, owners, owners, BOUND) == [Item(target=TWO, lun=4)]
    both = find_late(old, settings(target(ONE, FILE)), owners, {ONE: 2}, BOUND)
    assert list(map(str, both)) == [f"LUN 0 of {ONE}"]
    wide = settings(target(ONE, FILE), target(TWO), portal={"tcp": {"listen": "iscsi://0.0.0.0:11"}})
    assert list(map(str, find_late(old, wide, owners, owners, BOUND))) == ["portal tcp"]
    assert find_late(old, settings(portal=PORTALS), owners, owners, BOUND) == []


def test_what_is_left_out_is_gone_from_the_configuration() -> None:
    config = leave_out(settings(target(ONE, lun(), lun(1)), target(TWO)), [Item("rdma"), Item(target=ONE, lun=1)])
    assert list(config.portal) == ["tcp"]
    assert [[each.id for each in one.lun] for one in config.target] == [[0], [0]]
