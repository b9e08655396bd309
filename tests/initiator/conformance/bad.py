"""Our own target, made bad on purpose: what each case must find.

A :class:`Fault` patches one thing and names the cases that must see it, with the verdict.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from initiator.conformance import CASES, Outcome, Site, Verdict, run_cases, survey
from initiator.options import ConnectOptions
from initiator.url import Url
from iser.datamover import IserTarget
from iser.rdma.softiwarp import SoftIwarp
from target.config import Config
from target.server import TargetServer
from tests.target.peer import FAST, TARGET, config, disk

__all__ = ["FAIL", "SKIP", "TWO_TARGETS", "WARN", "Fault", "both", "check", "outcomes", "site_of", "wrap"]

FAIL, WARN, SKIP = Verdict.FAIL, Verdict.WARN, Verdict.SKIP
Patch = Callable[[pytest.MonkeyPatch], None]
#: A second target, so that "all" is not "this one".
TWO_TARGETS = disk() + disk(name=f"{TARGET}2")


@dataclass(frozen=True)
class Fault:
    """What ``patch`` breaks, and how the cases that see it end."""

    what: str
    patch: Patch
    found: dict[str, Verdict]


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    """Replace a method by what ``make`` returns for the old one."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, name, make(getattr(owner, name)))

    return patch


def both(*patches: Patch) -> Patch:
    """Several patches as one."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


#: Seconds for an answer: what suits the tests, and what a busy machine may take.
PATIENCE = (0.25, 2.5)


@asynccontextmanager
async def site_of(settings: Config | None = None, patience: float = PATIENCE[0]) -> AsyncIterator[Site]:
    """A target in this process, with times short enough for tests.  What a bad one leaves behind is not looked at."""
    server = await TargetServer.start(settings or config(target=TWO_TARGETS))
    try:
        url = Url.parse(f"iser://127.0.0.1:{server.addresses[0][1]}/{TARGET}/0")
        site = await survey(url, ConnectOptions(), 0, seed=True)
        site.provider, site.patience, site.quiet = SoftIwarp(FAST), patience, 0.03
        yield site
    finally:
        await server.close(drain=0)


async def outcomes(site: Site, *names: str, destructive: bool = True) -> dict[str, Outcome]:
    """Run cases by their full names; all without names."""
    cases = [case for case in CASES if not names or case.full_name in names]
    assert len(cases) == (len(names) or len(CASES))
    found: dict[str, Outcome] = {}
    for case in cases:  # each as a run of its own, for a bad target may not survive the first
        async for outcome in run_cases([case], site, destructive=destructive, timeout=8, recovery=0):
            found[case.full_name] = outcome
    return found


async def check(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases that must find ``fault`` find it, and do not before it is there."""
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for patience in PATIENCE:
        async with site_of(patience=patience) as site:
            with monkeypatch.context() as patched:
                # A plain read or write takes a short way past what faults patch; here all take the long one.
                patched.setattr(IserTarget, "serve_quickly", lambda self, start: None)
                fault.patch(patched)
                found = await outcomes(site, *fault.found)
        verdicts = {name: (outcome.verdict, outcome.why) for name, outcome in found.items()}
        if {name: verdict for name, (verdict, _) in verdicts.items()} == fault.found:
            break
    assert {name: verdict for name, (verdict, _) in verdicts.items()} == fault.found, verdicts
    assert all(why and "internal error" not in why for _, why in verdicts.values()), verdicts
