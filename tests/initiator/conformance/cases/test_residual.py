"""Each case about residual counts finds the fault that it looks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from iser.datamover import IserTarget
from iser.pdu import RESPONSE_UNDERFLOW, Pdu, ScsiCommand, ScsiResponse
from iser.scsi.codes import SenseCode
from iser.scsi.const import SenseKey
from target.scsi import ReadMedia, TargetDevice, WriteMedia
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, check, wrap

__all__ = ["FAULTS"]


def _responses(change: Callable[[ScsiResponse], ScsiResponse]) -> Any:
    """Every SCSI Response is changed on its way."""

    def make(old: Any) -> Any:
        def send(self: IserTarget, pdu: Pdu) -> None:
            bhs = pdu.bhs
            old(self, pdu._replace(bhs=change(bhs)) if isinstance(bhs, ScsiResponse) else pdu)

        return send

    return wrap(IserTarget, "send_control", make)


def _pads(old: Any) -> Any:
    """Reads are always as long as EDTL: what the command does not give is zeroes."""

    def put_data(
        self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool
    ) -> None:
        length = sum(map(len, views))
        more = bytes(self._tags[itt].edtl - offset - length)
        old(self, itt, [*views, memoryview(more)], offset, data_sn, notify=notify)

    return put_data


def _writes_for_nothing(old: Any) -> Any:
    """A command that has a read buffer gets something in it."""

    def notify(self: Session, pdu: Pdu) -> None:
        bhs = pdu.bhs
        if isinstance(bhs, ScsiCommand) and not bhs.cdb[0] and self._datamover.can_put(bhs.itt):
            self._datamover.put_data(bhs.itt, [memoryview(b"junk")], 0, 0, notify=False)
        old(self, pdu)

    return notify


def _beyond(old: Any) -> Any:
    """EDTL is what the CDB says."""

    def put_data(
        self: IserTarget, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool
    ) -> None:
        tags = self._tags[itt]
        self._tags[itt] = tags._replace(edtl=tags.edtl + 16)
        old(self, itt, [*views, memoryview(bytes(16))], offset, data_sn, notify=notify)

    return put_data


def _refuses_misfits(old: Any) -> Any:
    """A read or a write with another EDTL ends in a status."""

    def start(self: TargetDevice, task: Any) -> Any:
        plan = old(self, task)
        if isinstance(plan, ReadMedia | WriteMedia) and plan.length != task.edtl:
            return plan.lu.check(SenseCode(SenseKey.ILLEGAL_REQUEST, 0x0E, 0x03))
        return plan

    return start


def _whole_burst(old: Any) -> Any:
    """A write stores all that EDTL has."""

    def start(self: TargetDevice, task: Any) -> Any:
        plan = old(self, task)
        return replace(plan, length=max(plan.length, task.edtl)) if isinstance(plan, WriteMedia) else plan

    return start


def _off_by_one(bhs: ScsiResponse) -> ScsiResponse:
    return bhs._replace(residual=bhs.residual + 1)


def _always_under(bhs: ScsiResponse) -> ScsiResponse:
    return bhs._replace(flags=bhs.flags | RESPONSE_UNDERFLOW, residual=1)


def _never(bhs: ScsiResponse) -> ScsiResponse:
    return bhs._replace(flags=0x80, residual=0)


def _too_much(bhs: ScsiResponse) -> ScsiResponse:
    return bhs._replace(residual=99999) if bhs.flags & RESPONSE_UNDERFLOW else bhs


def _no_residual_on_failure(bhs: ScsiResponse) -> ScsiResponse:
    return _never(bhs) if bhs.status else bhs


FAULTS: Final = (
    Fault("a residual one off", _responses(_off_by_one), {
        f"residual.{name}": FAIL
        for name in (
            "control-underflow", "control-overflow", "read-underflow", "read-overflow", "no-data-edtl", "failed-read",
            "read-no-edtl", "write-underflow", "write-overflow",
        )
    }),
    Fault("always an underflow", _responses(_always_under), {"residual.exact": FAIL, "residual.no-data": FAIL}),
    Fault("no residual", _responses(_never), {
        "residual.control-underflow": FAIL, "residual.control-overflow": FAIL, "residual.failed-read": WARN,
    }),
    Fault("an underflow of more than EDTL", _responses(_too_much), {"residual.odd-lengths": FAIL}),
    Fault("none where it failed", _responses(_no_residual_on_failure), {"residual.failed-read": WARN}),
    Fault("bidirectional residuals", _responses(lambda bhs: bhs._replace(bidi_residual=1)), {"residual.no-data": FAIL}),
    Fault("ExpDataSN counts", _responses(lambda bhs: bhs._replace(exp_data_sn=1)), {"residual.exact": FAIL}),
    Fault("reads are padded", wrap(IserTarget, "put_data", _pads), {
        "residual.control-underflow": FAIL, "residual.read-underflow": FAIL,
    }),
    Fault("data for nothing", wrap(Session, "control_notify", _writes_for_nothing), {"residual.no-data-edtl": FAIL}),
    Fault("beyond EDTL", wrap(IserTarget, "put_data", _beyond), {
        "residual.control-overflow": FAIL, "residual.read-overflow": FAIL,
    }),
    Fault("misfits are refused", wrap(TargetDevice, "start", _refuses_misfits), {
        "residual.read-overflow": WARN, "residual.write-underflow": WARN, "residual.write-overflow": WARN,
        "residual.read-no-edtl": WARN,
    }),
    Fault("EDTL is stored", wrap(TargetDevice, "start", _whole_burst), {"residual.write-underflow": FAIL}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
