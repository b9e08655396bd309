"""Each case about what is not allowed finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from iser.datamover import IserTarget
from iser.datamover.endpoint import Endpoint
from iser.pdu import CONTROL, LogoutRequest, LogoutResponse, NopIn, Pdu, Reject, ScsiResponse
from target.connection import Connection
from target.scsi import Done, TargetDevice
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, check, wrap

__all__ = ["FAULTS"]

_SENSE_CASES: Final = ("errors.unknown-command", "errors.out-of-range", "errors.no-lun", "errors.unknown-page")
_PDU_CASES: Final = tuple(
    f"errors.{name}"
    for name in (
        "snack", "unknown-opcode", "target-opcode", "second-login", "bidirectional", "edtl-without-direction",
    )
)  # fmt: skip
_FORMAT_CASES: Final = ("errors.less-data", "errors.too-much-length", "errors.short-header")
_HEADER_CASES: Final = ("errors.hello", "errors.no-iser-header", "errors.empty")


def _sense(change: Any) -> Any:
    """The data segment of every response with a bad status is changed."""

    def make(old: Any) -> Any:
        def send(self: IserTarget, pdu: Pdu) -> None:
            bad = isinstance(pdu.bhs, ScsiResponse) and pdu.bhs.status
            old(self, pdu._replace(data=change(bytes(pdu.data))) if bad else pdu)

        return send

    return wrap(IserTarget, "send_control", make)


def _rejects(change: Any) -> Any:
    """Every Reject is changed; None drops it."""

    def make(old: Any) -> Any:
        def send(self: IserTarget, pdu: Pdu) -> None:
            changed = change(pdu) if isinstance(pdu.bhs, Reject) else pdu
            if changed is not None:
                old(self, changed)

        return send

    return wrap(IserTarget, "send_control", make)


def _pong(pdu: Pdu) -> Pdu:
    return Pdu(NopIn(itt=1, stat_sn=pdu.bhs.stat_sn, exp_cmd_sn=pdu.bhs.exp_cmd_sn, max_cmd_sn=pdu.bhs.max_cmd_sn))  # type: ignore[union-attr]


def _all_good(old: Any) -> Any:
    del old
    return lambda self, task: Done(0)


def _headers(answer: bool) -> Any:
    """What has no iSER header is passed over, or taken for a ping."""

    def make(old: Any) -> Any:
        def receive(self: Endpoint, message: memoryview, invalidated: int) -> None:
            if len(message) and message[0] & 0xF0 == CONTROL:
                old(self, message, invalidated)
            elif answer and isinstance(self, IserTarget):
                self._user.session._send(NopIn(itt=1))  # type: ignore[attr-defined]

        return receive

    return wrap(Endpoint, "_receive", make)


def _malformed(answer: Any) -> Any:
    """What is no PDU is answered so."""

    def make(old: Any) -> Any:
        del old

        def notify(self: Session, error: Any, bhs: bytes) -> None:
            del error
            answer(self, bhs)

        return notify

    return wrap(Session, "malformed_notify", make)


def _tagged(pdu: Pdu) -> Pdu:
    return pdu._replace(bhs=pdu.bhs._replace(itt=5))


def _ping(session: Session, bhs: bytes) -> None:
    del bhs
    session._send(NopIn(itt=1))


def _recovers(code: int | None) -> Any:
    """A logout for recovery is answered with ``code``; None rejects it."""

    def make(old: Any) -> Any:
        def logout(self: Session, pdu: Pdu) -> None:
            if not isinstance(pdu.bhs, LogoutRequest) or pdu.bhs.flags != 0x82:
                old(self, pdu)
            elif code is None:
                self._refuse(pdu, 4, "no such logout")
            else:
                self._send(LogoutResponse(response=code, itt=pdu.bhs.itt))

        return logout

    return wrap(Session, "_logout", make)


def _refused_logout() -> Any:
    def logout(self: Session, pdu: Pdu) -> None:
        self._send(LogoutResponse(response=3, itt=pdu.bhs.itt))

    return wrap(Session, "_logout", lambda _: logout)


def _every_tag_is_used(old: Any) -> Any:
    """The second command of a tag is answered under a tag of the target's own."""

    def command(self: Session, pdu: Pdu) -> None:
        last, self.__dict__["_last"] = self.__dict__.get("_last"), pdu.bhs.itt
        if last == pdu.bhs.itt:
            self._numbers.end()
            self._send(ScsiResponse(itt=0x4444))
        else:
            old(self, pdu)

    return command


FAULTS: Final = (
    Fault("no sense", _sense(lambda data: b""), dict.fromkeys(_SENSE_CASES, FAIL)),
    Fault("much sense", _sense(lambda data: data + bytes(120)), dict.fromkeys(_SENSE_CASES, FAIL)),
    Fault("strange sense", _sense(lambda data: data[:2] + b"\x01" + data[3:]), dict.fromkeys(_SENSE_CASES, FAIL)),
    Fault("other codes", _sense(lambda data: data[:14] + b"\x44" + data[15:]), dict.fromkeys(_SENSE_CASES, WARN)),
    Fault("other keys", _sense(lambda data: data[:4] + b"\x04" + data[5:]), dict.fromkeys(_SENSE_CASES, FAIL)),
    Fault("all commands are good", wrap(TargetDevice, "start", _all_good), dict.fromkeys(_SENSE_CASES, FAIL)),
    Fault("no Rejects", _rejects(lambda pdu: None), dict.fromkeys(_PDU_CASES, WARN)),
    Fault("Rejects without a header", _rejects(lambda pdu: pdu._replace(data=b"")), dict.fromkeys(_PDU_CASES, FAIL)),
    Fault(
        "Rejects for other reasons",
        _rejects(lambda pdu: pdu._replace(bhs=pdu.bhs._replace(reason=0x0A))),
        dict.fromkeys(_PDU_CASES, WARN),
    ),
    Fault("Rejects with a tag", _rejects(_tagged), dict.fromkeys(_PDU_CASES, FAIL)),
    Fault("pongs for Rejects", _rejects(_pong), dict.fromkeys(_PDU_CASES, FAIL)),
    Fault("no format error is noticed", _malformed(lambda self, bhs: None), dict.fromkeys(_FORMAT_CASES, WARN)),
    Fault("format errors are pings", _malformed(_ping), dict.fromkeys(_FORMAT_CASES, FAIL)),
    Fault("headers are passed over", _headers(answer=False), dict.fromkeys(_HEADER_CASES, WARN)),
    Fault("anything is a ping", _headers(answer=True), dict.fromkeys(_HEADER_CASES, FAIL)),
    Fault("stays behind a logout", wrap(Connection, "close", lambda _: lambda self, session, why: None), {
        "errors.logout": WARN,
    }),
    Fault("logouts fail", _refused_logout(), {"errors.logout": FAIL}),
    Fault("recovery", _recovers(0), {"errors.recovery-logout": FAIL}),
    Fault("recovery is rejected", _recovers(None), {"errors.recovery-logout": WARN}),
    Fault("another tag", wrap(Session, "_command", _every_tag_is_used), {"errors.duplicate-tag": FAIL}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
