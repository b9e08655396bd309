"""Real runs, tiny: two processes on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from initiator import Url
from initiator.bench.cases import ALL_STRATEGIES, Axes, Case, cases_of
from initiator.bench.result import Journal
from initiator.bench.runner import Settings, Unaligned
from initiator.url import Portal
from tests.target.peer import TARGET, serving

TINY = Settings(0.01, repeats=2)


def quiet(done: int, total: int, case: Case) -> None:
    assert 0 <= done <= total


async def test_every_strategy_and_plain_sockets() -> None:
    plan = (
        Axes(("S0", "S4"), (4096,), (2,), ALL_STRATEGIES, ("remote", "local")),
        Axes(("S12",), (16384,), (2,), ("bounce",)),
        Axes(("S0",), (65536,), (1,), ("raw_tcp",)),
    )
    cases = cases_of(plan, embedded=True)
    async with Unaligned(cases, TINY, None) as bench:
        result = bench.new_result()
        await bench.run(result, None, quiet)
    assert {each.case.strategy for each in result.measurements} == {*ALL_STRATEGIES, "raw_tcp"}
    for each in result.measurements:
        assert len(each.slices) == 2
        assert each.rate > 0
        if each.case.strategy != "raw_tcp":
            assert each.verified == 4
            assert each.latency.total == sum(piece.ios for piece in each.slices)
            pages = each.case.size // 4096 if each.case.strategy == "bounce" else 0
            assert each.counts["allocations"] == pages
            assert each.cpu("target")
    (indirect,) = [
        each for each in result.find(strategy="indirect", shape="S4", write=False) if each.case.invalidate == "remote"
    ]
    names = ("work_requests", "stags", "target_operations", "list_entries", "list_bytes", "bytes_copied")
    assert [indirect.counts[name] for name in names] == [2, 1, 1, 8, 128, 0]
    (several,) = [
        each for each in result.find(strategy="multi_mr", shape="S4", write=False) if each.case.invalidate == "local"
    ]
    assert [several.counts[name] for name in names[:4]] == [17, 8, 8, 8]
    (mirror,) = result.find(strategy="split", shape="S4", write=True, invalidate="remote")
    assert [mirror.counts[name] for name in names[:3]] == [16, 8, 8]


async def test_a_target_that_is_there_already_and_going_on_after_an_end(tmp_path: Path) -> None:
    cases = cases_of((Axes(("S2",), (4096,), (1,), ("frwr", "bounce")),), embedded=False)
    async with serving() as (_, port):
        url = Url(Portal("127.0.0.1", port), TARGET)
        path = tmp_path / "journal"
        async with Unaligned(cases[:2], TINY, url) as bench:
            result = bench.new_result()
            result.settings["cases"] = len(cases)
            await bench.run(result, Journal(path, result), quiet)
        first = result.measurements
        async with Unaligned(cases, TINY, url) as bench:
            result = bench.new_result()
            await bench.run(result, Journal(path, result), quiet)
    assert [each.case for each in result.measurements] == cases
    assert [each.slices for each in result.measurements[:2]] == [each.slices for each in first]
    assert all(each.cpu("target") is None for each in result.measurements)


async def test_lists_made_anew_each_time() -> None:
    cases = cases_of((Axes(("S8",), (4096,), (1,), ("indirect",), directions=("read",)),), embedded=True)
    async with Unaligned(cases, Settings(0.01, 1, fresh=True), None) as bench:
        result = bench.new_result()
        await bench.run(result, None, quiet)
    assert result.settings["fresh"]
    assert result.measurements[0].verified == 2


@pytest.mark.parametrize("share", [0.25, 1.0])
async def test_a_small_pool_makes_transfers_wait(share: float) -> None:
    case = Case("multi_mr", "S5", 65536, False, 8, "remote", share)
    async with Unaligned([case], TINY, None) as bench:
        result = bench.new_result()
        await bench.run(result, None, quiet)
    each = result.measurements[0]
    assert (each.counts["pool_waits"] > 0) == (share < 1)
    assert each.high_water["page_lists"] <= 8 * 16 * share
