"""The conformance suite against the peers' targets: they fail what ``docs/conformance-iser.md`` says, and nothing else.

The outcomes go to ``.lab/conformance-<peer>.json`` and ``.xml``.  They are no cells of the matrix: the suite asks what
a target does, the matrix what works with ours.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from initiator.conformance import Outcome, Verdict, as_json, as_junit, chosen, run_cases, survey
from initiator.url import Url
from tests.interop.peers.base import TargetPeer
from tests.interop.peers.lio import Lio
from tests.interop.peers.tgt import Tgt
from tests.lab.build import FOLDER

#: After these the peer takes no login any more, or so its source says of tgt.
DEADLY: Final[dict[str, list[str]]] = {
    "lio": ["login.reserved-stage", "login.backward"],
    "tgt": ["discovery.ping", "discovery.scsi"],
}
#: What they are known to fail; ``docs/conformance-iser.md`` says how and why.
KNOWN: Final[dict[str, set[str]]] = {
    "lio": {
        "login.split-text",
        "login.same-stage",
        "login.transit-and-continue",
        "negotiation.header-digest",
        "negotiation.data-digest",
        "data.immediate-block",
        "data.immediate-odd",
        "errors.no-lun",
    },
    "tgt": {
        "login.split-text",
        "login.unknown-tsih",
        "login.second-connection",
        "login.reinstatement",
        "login.transit-and-continue",
        # Races, each seen in some runs.
        "login.names-first",
        "login.changed-isid",
        "login.ready",
        "discovery.normal-empty",
        "flow.beyond-window",
        "flow.text",
        "flow.one-way-ping",
        "residual.control-overflow",
        "residual.no-data-edtl",
        "residual.read-no-edtl",
        "residual.odd-lengths",
        "tags.no-data",
        "tmf.no-lun",
        "tmf.abort-task",
        "tmf.abort-task-set",
        "tmf.lun-reset",
        "tmf.reset-attention",
        "errors.recovery-logout",
        "errors.less-data",
    },
}
TIMEOUT: Final = 60.0  # seconds for a case: all is emulated


def _write(name: str, url: str, found: list[Outcome]) -> None:
    (FOLDER / f"conformance-{name}.json").write_text(as_json(url, found))
    (FOLDER / f"conformance-{name}.xml").write_text(as_junit(url, found))


async def _run(name: str, peer: TargetPeer) -> dict[str, str]:
    """What failed, with the reasons."""
    url = Url.parse(f"iser://{peer.portal}/{peer.name}/{peer.lun}")
    options: dict[str, Any] = peer.options
    site = await survey(url, url.connect_options.with_changes(options), peer.settle_seconds, seed=True)
    cases = chosen([], DEADLY[name])
    found = [outcome async for outcome in run_cases(cases, site, destructive=True, timeout=TIMEOUT)]
    _write(name, str(url), found)
    return {outcome.case.full_name: outcome.why for outcome in found if outcome.verdict is Verdict.FAIL}


# Classes, since rows that run side by side are handed out by the class.
@pytest.mark.timeout(900)
class TestLio:
    """LIO."""

    async def test_lio_fails_what_is_known(self, lio: Lio) -> None:
        failed = await _run("lio", lio)
        assert {name: why for name, why in failed.items() if name not in KNOWN["lio"]} == {}


@pytest.mark.timeout(900)
class TestTgt:
    """tgt."""

    async def test_tgt_fails_what_is_known(self, tgt: Tgt) -> None:
        try:
            failed = await _run("tgt", tgt)
        finally:
            # LOGICAL UNIT RESET would wait for commands of connections that cases ended.
            await asyncio.to_thread(tgt.restart)
        assert {name: why for name, why in failed.items() if name not in KNOWN["tgt"]} == {}
