"""Runs go on whatever a case or a target does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from initiator.conformance import CASES, Case, Failure, Outcome, Site, Skipped, Unusual, Verdict, chosen, run_cases
from iser.errors import ConnectionLost
from target.server import TargetServer
from tests.initiator.conformance.bad import TWO_TARGETS, outcomes, site_of
from tests.target.peer import config, redirecting


async def _passes(site: Site) -> None:
    async with site.session() as session:
        await session.alive()


async def _fails(site: Site) -> None:
    raise Failure("it is bad")


async def _warns(site: Site) -> None:
    raise Unusual("it is odd")


async def _skips(site: Site) -> None:
    raise Skipped("it is not offered")


async def _hangs(site: Site) -> None:
    await asyncio.sleep(60)


async def _stumbles(site: Site) -> None:
    raise ZeroDivisionError("a fault of the suite")


async def _loses(site: Site) -> None:
    raise ConnectionLost("gone")


def _case(run: object, name: str = "x", *, destructive: bool = False) -> Case:
    return Case(name, "something", "RFC 0", run, destructive=destructive, group="g")  # type: ignore[arg-type]


async def _run(site: Site, *cases: Case, destructive: bool = True, recovery: float = 0.5) -> list[Outcome]:
    running = run_cases(cases, site, destructive=destructive, timeout=0.3, recovery=recovery)
    return [outcome async for outcome in running]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[TargetServer]:
    """The servers that the test starts."""
    started: list[TargetServer] = []
    start = TargetServer.start

    async def remember(*args: object) -> TargetServer:
        started.append(await start(*args))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(TargetServer, "start", remember)
    return started


async def test_our_target_passes() -> None:
    async with site_of() as site:
        found = await outcomes(site)
    bad = {
        name: (outcome.verdict.value, outcome.why)
        for name, outcome in found.items()
        if outcome.verdict in (Verdict.FAIL, Verdict.WARN)
    }
    assert not bad, bad
    skipped = {name for name, outcome in found.items() if outcome.verdict is Verdict.SKIP}
    assert skipped == {"data.unsolicited"}, skipped


async def test_each_way_to_end() -> None:
    async with site_of() as site:
        runs = (_passes, _fails, _warns, _skips, _hangs, _loses)
        found = await _run(site, *(_case(run) for run in runs))
    assert [outcome.verdict.value for outcome in found] == ["pass", "fail", "warn", "skip", "fail", "fail"]
    assert [outcome.why for outcome in found] == [
        "",
        "it is bad",
        "it is odd",
        "it is not offered",
        "it did not end within 0.3 seconds",
        "ConnectionLost: gone",
    ]


async def test_a_fault_of_the_suite_ends_one_case_and_leaves_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    async with site_of() as site:
        first, second = await _run(site, _case(_stumbles), _case(_passes))
    assert first.verdict is Verdict.FAIL
    assert "internal error of the suite" in first.why
    assert second.verdict is Verdict.PASS
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


async def test_words_of_a_peer_do_no_harm_to_a_terminal() -> None:
    async def speaks(site: Site) -> None:
        raise Failure("it says \x1b[2J\x00\ud800 and é")

    async with site_of() as site:
        (outcome,) = await _run(site, _case(speaks))
    assert outcome.why == r"it says \x1b[2J\x00\ud800 and é"


async def test_a_target_that_sends_logins_elsewhere_is_followed(
    servers: list[TargetServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a target with several workers some connections reach the wrong one, which says nothing of what is tested."""
    portals = {name: {"listen": "iser://127.0.0.1:0"} for name in "pq"}
    async with site_of(config(portal=portals, target=TWO_TARGETS)) as site:
        redirecting(monkeypatch, servers[0])
        cases = chosen(["login.unknown-target", "login.many", "flow.ping"])
        found = [outcome async for outcome in run_cases(cases, site, recovery=0)]
        assert site.place.portal.port == servers[0].addresses[1][1]
    bad = {outcome.case.full_name: outcome.why for outcome in found if outcome.verdict is not Verdict.PASS}
    assert not bad, bad


async def test_what_writes_needs_leave() -> None:
    async with site_of() as site:
        (outcome,) = await _run(site, _case(_fails, destructive=True), destructive=False)
    assert outcome.verdict is Verdict.SKIP
    assert "--destructive" in outcome.why


async def test_nothing_that_needs_no_leave_writes() -> None:
    async with site_of() as site:
        async with site.session() as session:
            before = await session.read(0, site.blocks)
        await outcomes(site, *(case.full_name for case in CASES if case.destructive), destructive=False)
        await outcomes(site, *(case.full_name for case in chosen(["residual", "tags", "shapes"])), destructive=False)
        async with site.session() as session:
            assert await session.read(0, site.blocks) == before


async def test_a_target_that_dies_fails_the_case_and_the_rest_is_skipped(servers: list[TargetServer]) -> None:
    async def kills(site: Site) -> None:
        await servers[0].close(drain=0)
        raise Failure("it died")

    async with site_of() as site:
        found = await _run(site, _case(kills, "killer"), _case(_passes), _case(_passes), recovery=0.1)
    assert [outcome.verdict.value for outcome in found] == ["fail", "skip", "skip"]
    assert found[0].why.startswith("it died; the target takes no login after it: ")
    assert found[1].why == "the target has not come back since g.killer"


async def test_a_settling_time_is_kept_before_what_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def spy(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async with site_of() as site:
        site.settle = 0.6
        monkeypatch.setattr("initiator.conformance.site.asyncio.sleep", spy)
        await _run(site, _case(_passes))
        assert 0.6 not in slept
        await _run(site, _case(_passes, destructive=True))
        assert 0.6 in slept
