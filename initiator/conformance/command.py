"""``iser conformance``: what the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from initiator.conformance.case import Case, Outcome
from initiator.conformance.cases import chosen
from initiator.conformance.output import as_json, as_junit, case_table, console, outcome_table, summary
from initiator.conformance.runner import CASE_TIMEOUT, run_cases
from initiator.conformance.survey import survey
from initiator.conformance.verdict import Verdict
from initiator.url import Url
from iser.errors import UsageError

__all__ = ["Request", "carry_out"]


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments; ``timeout`` for each case and ``settle`` in seconds."""

    url: str | None
    only: list[str] = field(default_factory=list)
    skip: list[str] = field(default_factory=list)
    listing: bool = False
    destructive: bool = False
    json: Path | None = None
    junit: Path | None = None
    timeout: float = CASE_TIMEOUT
    settle: float = 0.0


async def carry_out(request: Request) -> bool:
    """Run, print and write what was asked for; True unless a case failed.

    Raises UsageError, and what connecting raises where the target cannot be reached at all.
    """
    cases = chosen(request.only, request.skip)
    screen = console()
    if request.listing:
        screen.print(case_table(cases))
        return True
    if request.url is None:
        raise UsageError("give the URL of the LUN to test, or --list")
    for path in filter(None, (request.json, request.junit)):
        _check_writable(path)
    url = Url.parse(request.url)
    if url.portal.transport != "iser":
        raise UsageError(f"{url}: the suite tests iSER targets; give an iser:// URL")
    if url.user:
        raise UsageError(f"{url}: the suite logs in without a password; let its initiator in without one")
    outcomes = await _run(url, request, cases)
    screen.print(outcome_table(outcomes))
    screen.print(f"{url}: {summary(outcomes)}", highlight=False, markup=False)
    if request.json:
        request.json.write_text(as_json(str(url), outcomes))
    if request.junit:
        request.junit.write_text(as_junit(str(url), outcomes))
    return all(outcome.verdict is not Verdict.FAIL for outcome in outcomes)


async def _run(url: Url, request: Request, cases: list[Case]) -> list[Outcome]:
    site = await survey(url, url.connect_options, request.settle, seed=request.destructive)
    status = Console(stderr=True)
    if not status.is_terminal:
        return [
            outcome
            async for outcome in run_cases(cases, site, destructive=request.destructive, timeout=request.timeout)
        ]
    with status.status("") as line:
        running = run_cases(
            cases,
            site,
            destructive=request.destructive,
            timeout=request.timeout,
            begin=lambda case: line.update(case.full_name),
        )
        return [outcome async for outcome in running]


def _check_writable(path: Path) -> None:
    """Find out before the run that a report cannot be written."""
    try:
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another place") from None
