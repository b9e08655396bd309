"""``iser conformance``: what the command line asks for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from initiator.conformance.case import Case, Outcome
from initiator.conformance.cases import chosen
from initiator.conformance.output import as_json, as_junit, case_table, console, outcome_table, summary
from initiator.conformance.runner import CASE_TIMEOUT, run_cases
from initiator.conformance.site import Site
from initiator.conformance.survey import survey
from initiator.conformance.verdict import Verdict
from initiator.credentials import make_auth
from initiator.url import Url
from iser.errors import LoginError, UsageError
from iser.login import LoginStatus

__all__ = ["Request", "carry_out"]

_LOGS_IN_OPENLY: Final = "the suite logs in without a password; let its initiator in without one"


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
    if make_auth(url.connect_options):
        raise UsageError(f"{url}: {_LOGS_IN_OPENLY}")
    site = await _survey(url, request)
    outcomes: list[Outcome] = []
    try:
        await _run(site, request, cases, outcomes)
    finally:  # an interrupted run has found something, too
        outcomes += [Outcome(case, Verdict.SKIP, "the run was interrupted") for case in cases[len(outcomes) :]]
        _report(url, request, outcomes, screen)
    return all(outcome.verdict is not Verdict.FAIL for outcome in outcomes)


async def _survey(url: Url, request: Request) -> Site:
    try:
        return await survey(url, url.connect_options, request.settle, seed=request.destructive)
    except LoginError as error:
        if error.status_class << 8 | error.status_detail == LoginStatus.AUTHENTICATION_FAILURE:
            raise UsageError(f"{url}: the target wants a password, and {_LOGS_IN_OPENLY}") from None
        raise


async def _run(site: Site, request: Request, cases: list[Case], outcomes: list[Outcome]) -> None:
    """Run ``cases`` and append their ``outcomes``; a terminal shows which one runs."""
    status = Console(stderr=True)
    with status.status("") if status.is_terminal else nullcontext() as line:
        running = run_cases(
            cases,
            site,
            destructive=request.destructive,
            timeout=request.timeout,
            begin=(lambda case: line.update(case.full_name)) if line else None,
        )
        async for outcome in running:
            outcomes.append(outcome)  # noqa: PERF401 - what has ended counts when the run is interrupted


def _report(url: Url, request: Request, outcomes: list[Outcome], screen: Console) -> None:
    screen.print(outcome_table(outcomes))
    screen.print(f"{url}: {summary(outcomes)}", highlight=False, markup=False)
    for path, words in ((request.json, as_json), (request.junit, as_junit)):
        if path:
            try:
                path.write_text(words(str(url), outcomes), encoding="utf-8")
            except OSError as error:
                raise _unwritable(path, error) from None


def _check_writable(path: Path) -> None:
    """Find out before the run that a report cannot be written."""
    new = not path.exists()
    try:
        path.open("a").close()
        if new:
            path.unlink()  # a run that does not begin leaves nothing
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be written: {error.strerror}; choose another place")
