"""Each discovery case finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from iser.login import Pair, TargetAddress, TargetRecord, TextResponder, target_pairs
from iser.pdu import FINAL, LogoutRequest, NopOut, Pdu, ScsiCommand, ScsiResponse, TextRequest, TextResponse
from target.connection import Connection
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, check, wrap
from tests.target.peer import TARGET

__all__ = ["FAULTS"]

_HERE: Final = TargetAddress("127.0.0.1")


def _lists(*pairs: Pair) -> Any:
    """What SendTargets answers, whatever was asked for."""
    return wrap(TextResponder, "_send_targets", lambda _: lambda self, value: list(pairs))


def _drops(kind: type[Any]) -> Any:
    def make(old: Any) -> Any:
        def notify(self: Session, pdu: Pdu) -> None:
            if not isinstance(pdu.bhs, kind):
                old(self, pdu)

        return notify

    return wrap(Session, "control_notify", make)


def _does_scsi(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        if isinstance(pdu.bhs, ScsiCommand):
            self._send(ScsiResponse(itt=pdu.bhs.itt))
        else:
            old(self, pdu)

    return notify


def _any_tag(old: Any) -> Any:
    def text(self: Session, pdu: Pdu) -> None:
        if isinstance(pdu.bhs, TextRequest) and pdu.bhs.ttt == 0x1234:
            self._send(TextResponse(flags=FINAL, itt=pdu.bhs.itt))
        else:
            old(self, pdu)

    return text


_HERE_AND_THERE: Final = target_pairs([TargetRecord(TARGET, (_HERE,)), TargetRecord(f"{TARGET}2", (_HERE,))])

FAULTS: Final = (
    Fault("lists nothing", _lists(), {
        "discovery.all": FAIL, "discovery.by-name": FAIL, "discovery.normal-empty": FAIL,
    }),
    Fault("always lists all", _lists(*_HERE_AND_THERE), {
        "discovery.by-name": FAIL, "discovery.unknown-name": FAIL, "discovery.empty": WARN,
        "discovery.normal-empty": FAIL, "discovery.normal-all": WARN,
    }),
    Fault("no addresses", _lists(("TargetName", TARGET)), {"discovery.all": WARN}),
    Fault("refuses SendTargets", _lists(("SendTargets", "Reject")), {
        "discovery.all": FAIL, "discovery.by-name": FAIL, "discovery.with-target-name": FAIL,
        "discovery.normal-empty": WARN,
    }),
    Fault("texts are dropped", _drops(TextRequest), {
        "discovery.all": FAIL, "discovery.unknown-key": FAIL, "discovery.bad-tag": WARN,
    }),
    Fault(
        "unknown keys are ignored",
        wrap(TextResponder, "_answer_text", lambda _: lambda self, pairs: []),
        {"discovery.unknown-key": FAIL},
    ),
    Fault("logouts are dropped", _drops(LogoutRequest), {"discovery.logout": FAIL}),
    Fault("stays behind a logout", wrap(Connection, "close", lambda _: lambda self, session, why: None), {
        "discovery.logout": WARN,
    }),
    Fault("any tag continues", wrap(Session, "control_notify", _any_tag), {"discovery.bad-tag": WARN}),
    Fault("pings are dropped", _drops(NopOut), {"discovery.ping": WARN}),
    Fault("commands are dropped", _drops(ScsiCommand), {"discovery.scsi": WARN}),
    Fault("commands in discovery", wrap(Session, "control_notify", _does_scsi), {"discovery.scsi": FAIL}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
