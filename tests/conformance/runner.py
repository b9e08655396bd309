"""Runs tests of the tool in several places at a time, each worker against a target of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.conformance.site import Site
from tests.conformance.tool import COMMAND, TEST_SECONDS, run_test
from tests.conformance.verdict import Outcome, Place, Verdict

__all__ = ["WORKERS", "run_all"]

#: More than there are cores: the longest tests sleep.
WORKERS: Final = 6
_SLEEPERS: Final = "Sanitize."  # these take from 5 s to a minute each, so they go first


async def run_all(
    places: Iterable[Place],
    folder: Path,
    *,
    workers: int = WORKERS,
    command: str = COMMAND,
    timeout: float = TEST_SECONDS,
    told: Callable[[Place, Outcome], object] = lambda _place, _outcome: None,
) -> dict[Place, Outcome]:
    """Run all ``places``; ``told`` hears of each as it ends.  Logs go to ``folder``, which has to exist."""
    found: dict[Place, Outcome] = {}
    waiting = deque(sorted(places, key=lambda place: not place.test.startswith(_SLEEPERS)))

    async def work(number: int) -> None:
        site = Site(folder, f"target{number}")
        try:
            while waiting:
                place = waiting.popleft()
                if not site.alive:
                    await site.start()
                log = folder / f"{place.kind.replace(' ', '-')}.{place.test}.log"
                found[place] = outcome = await run_test(
                    place.test, site.urls(place.kind), log, command=command, timeout=timeout
                )
                told(place, outcome)
                if not site.alive:
                    found[place] = outcome._replace(verdict=Verdict.FAIL, reason="the target's process ended")
                elif outcome.verdict not in {Verdict.PASS, Verdict.SKIP}:
                    await site.stop()  # what it left behind must not fail the next test
        finally:
            await site.stop()

    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(work(number))
    return found
