"""Each case about write data finds the fault that it looks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

from initiator.conformance import Verdict
from iser.datamover import IserTarget
from iser.pdu import DataOut, NopIn, Pdu
from target.execution import Execution
from target.session import Session
from tests.initiator.conformance.bad import FAIL, SKIP, WARN, Fault, both, check, outcomes, site_of, wrap
from tests.target.peer import config

__all__ = ["FAULTS"]


def _one_off(old: Any) -> Any:
    """RDMA Reads leave out the last byte."""

    def get_data(self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, r2t_sn: int) -> None:
        old(self, itt, [*views[:-1], views[-1][:-1]], offset, r2t_sn)

    return get_data


def _no_immediate(old: Any) -> Any:
    """Immediate data is left where it is."""
    return lambda self, task, sink, immediate: old(self, task, sink, bytes(len(immediate)))


def _unchecked(old: Any) -> Any:
    del old
    return lambda self, bhs, immediate: 0


def _drops_data(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        if not isinstance(pdu.bhs, DataOut):
            old(self, pdu)

    return notify


def _answers_data(old: Any) -> Any:
    def drained(self: Session, pdu: Pdu, bhs: DataOut) -> None:
        del pdu
        self._send(NopIn(itt=bhs.itt))

    del old
    return drained


FAULTS: Final = (
    Fault("a byte is missing", wrap(IserTarget, "get_data", _one_off), {
        "data.solicited": FAIL, "data.immediate-odd": FAIL,
    }),
    Fault("immediate data is lost", wrap(Execution, "_collect", _no_immediate), {
        "data.immediate": FAIL, "data.immediate-part": FAIL, "data.immediate-block": FAIL, "data.immediate-odd": FAIL,
    }),
    Fault("nothing is checked", wrap(Execution, "_check", _unchecked), {
        "data.not-agreed": FAIL, "data.beyond-burst": FAIL, "data.beyond-edtl": FAIL,
    }),
    Fault(
        "unsolicited data is dropped",
        both(
            wrap(Execution, "_check", _unchecked),
            wrap(Session, "control_notify", _drops_data),
            wrap(IserTarget, "_base_is_byte_zero", lambda _: lambda self: True),
        ),
        {"data.unasked": FAIL},
    ),
    Fault("Data-Outs are dropped", wrap(Session, "control_notify", _drops_data), {"data.no-task": WARN}),
    Fault("Data-Outs are answered", wrap(Session, "_drained", _answers_data), {"data.no-task": FAIL}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)


NO_R2T = {"initial_r2t": False, "first_burst_length": 16384}
UNSOLICITED: Final = "data.unsolicited"


async def test_unsolicited_data_where_the_target_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site_of(config(limits=NO_R2T)) as site:
        found = await outcomes(site, UNSOLICITED, "data.unasked")
        assert {name: outcome.verdict for name, outcome in found.items()} == {
            UNSOLICITED: Verdict.PASS,
            "data.unasked": Verdict.PASS,
        }
        monkeypatch.setattr("target.execution.scatter", lambda data, views: None)
        found = await outcomes(site, UNSOLICITED)
        assert found[UNSOLICITED].verdict is FAIL


@pytest.mark.parametrize(
    "case", ["data.immediate", "data.immediate-part", "data.immediate-block", "data.immediate-odd", "tags.write-base"]
)
async def test_without_immediate_data_its_cases_say_who_does_not_offer_it(case: str) -> None:
    async with site_of(config(limits={"immediate_data": False})) as site:
        found = (await outcomes(site, case))[case]
        assert found.verdict is SKIP
        assert "ImmediateData=No" in found.why
