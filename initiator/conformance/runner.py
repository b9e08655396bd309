"""Runs cases one after the other, each on connections of its own, whatever becomes of the target meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Final

from initiator.conformance.case import Case, Outcome
from initiator.conformance.site import Site
from initiator.conformance.verdict import Failure, Skipped, Unusual, Verdict
from iser.errors import IserError

__all__ = ["CASE_TIMEOUT", "RECOVERY", "run_cases"]

CASE_TIMEOUT: Final = 30.0  # seconds
RECOVERY: Final = 90.0  # seconds that a target has to come back after a case that it did not survive
_RETRY: Final = 0.5

log = logging.getLogger("iser.conformance")


async def run_cases(
    cases: Iterable[Case],
    site: Site,
    *,
    destructive: bool = False,
    timeout: float = CASE_TIMEOUT,
    recovery: float = RECOVERY,
    begin: Callable[[Case], None] | None = None,
) -> AsyncIterator[Outcome]:
    """The outcome of each case, as it ends; ``begin`` is told of each before it starts.

    After a case that did not pass the target must take a login again, within ``recovery`` seconds; if it does not, that
    case has failed and the rest are skipped.  0 for ``recovery`` is not to try.  A case that was redirected is run once
    more at the new address, and so are those after it.
    """
    gone = ""
    for case in cases:
        if begin:
            begin(case)
        if gone:
            yield Outcome(case, Verdict.SKIP, f"the target has not come back since {gone}")
            continue
        place = site.place.portal
        outcome = await _run_one(case, site, destructive=destructive, timeout=timeout)
        if site.place.portal != place:  # the target wants us elsewhere, whatever the case made of that
            outcome = await _run_one(case, site, destructive=destructive, timeout=timeout)
        suspect = outcome.verdict in (Verdict.FAIL, Verdict.WARN) or (case.risky and outcome.verdict is Verdict.PASS)
        if suspect and recovery:
            problem = await _problem(site, recovery)
            if problem:
                gone = case.full_name
                said = f"{outcome.why}; " if outcome.why else ""
                outcome = replace(
                    outcome, verdict=Verdict.FAIL, why=f"{said}the target takes no login after it: {problem}"
                )
        yield outcome


async def _run_one(case: Case, site: Site, *, destructive: bool, timeout: float) -> Outcome:
    if case.destructive and not destructive:
        return Outcome(case, Verdict.SKIP, "it writes to the LUN; allow that with --destructive")
    start = time.monotonic()
    verdict, why = Verdict.PASS, ""
    try:
        async with asyncio.timeout(timeout):
            await case.run(replace(site, writes=case.destructive))
    except Skipped as skipped:
        verdict, why = Verdict.SKIP, str(skipped)
    except Unusual as unusual:
        verdict, why = Verdict.WARN, str(unusual)
    except Failure as failure:
        verdict, why = Verdict.FAIL, str(failure)
    except TimeoutError:
        verdict, why = Verdict.FAIL, f"it did not end within {timeout:g} seconds"
    except IserError as error:
        verdict, why = Verdict.FAIL, f"{type(error).__name__}: {error}"
    except Exception as error:
        # A fault of the suite must be seen, and must not end the run.
        log.exception("%s: internal error", case.full_name)
        verdict, why = Verdict.FAIL, f"internal error of the suite: {error!r}"
    return Outcome(case, verdict, _plain(why), time.monotonic() - start)


def _plain(text: str) -> str:
    """Words of a peer go to terminals and into XML, where control characters do harm."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


async def _problem(site: Site, seconds: float) -> str:
    """Why the target takes no login within ``seconds``; "" if it does.

    One patient connection, for a target that serves logins one by one is held up by each that goes away.
    """
    deadline = time.monotonic() + seconds
    while True:
        patient = replace(site, patience=max(_RETRY, deadline - time.monotonic()))
        try:
            async with patient.session():
                return ""
        except IserError as error:
            problem = str(error)
        if time.monotonic() >= deadline:
            return problem
        await asyncio.sleep(_RETRY)
