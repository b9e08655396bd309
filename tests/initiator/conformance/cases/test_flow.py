"""Each case about numbers and windows finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from iser.login import TargetLogin
from iser.pdu import IMMEDIATE, RESERVED_TAG, NopIn, NopOut, Pdu, Reject, ScsiCommand
from target.numbering import Numbering
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, check, wrap

__all__ = ["FAULTS"]


def _same_number(old: Any) -> Any:
    del old
    return lambda self: self.stat_sn


def _at_once(old: Any) -> Any:
    """Whatever comes is carried out as it comes."""
    del old

    def out_of_order(self: Session, pdu: Pdu, cmd_sn: int) -> None:
        del cmd_sn
        self._numbers.open += 1
        self._handlers[type(pdu.bhs)](pdu)

    return out_of_order


def _shrinks(old: Any) -> Any:
    """A window that is not given back."""
    del old
    return lambda self: None


def _goes_back(old: Any) -> Any:
    count = 0

    def max_cmd_sn(self: Numbering) -> int:
        nonlocal count
        count += 1
        return (int(old.fget(self)) - 8 * (count % 2)) & 0xFFFFFFFF

    return property(max_cmd_sn)


def _counts_immediate(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        if pdu.bhs.opcode & IMMEDIATE:
            self._numbers.exp_cmd_sn += 1
        old(self, pdu)

    return notify


def _rejects_immediate(old: Any) -> Any:
    def notify(self: Session, pdu: Pdu) -> None:
        if isinstance(pdu.bhs, ScsiCommand) and pdu.bhs.opcode & IMMEDIATE:
            self._send(Reject(reason=4), bytes(48))
        else:
            old(self, pdu)

    return notify


def _no_wrap(old: Any) -> Any:
    def begin(self: Numbering) -> None:
        old(self)
        self.exp_cmd_sn = self.exp_cmd_sn or 1

    return begin


def _pings(data: Any) -> Any:
    def make(old: Any) -> Any:
        del old

        def nop(self: Session, pdu: Pdu) -> None:
            self._slot_over(pdu.bhs.opcode)
            self._send(NopIn(itt=pdu.bhs.itt if pdu.bhs.itt != RESERVED_TAG else 0x77), data(bytes(pdu.data)))

        return nop

    return wrap(Session, "_nop", make)


def _text_unnumbered(old: Any) -> Any:
    def text(self: Session, pdu: Pdu) -> None:
        self._numbers.stat_sn += 1
        old(self, pdu)

    return text


def _login_response(old: Any) -> Any:
    return lambda self, request: (old(self, request) - 500) & 0xFFFFFFFF


def _no_early(old: Any) -> Any:
    """What came early is forgotten."""

    def out_of_order(self: Session, pdu: Pdu, cmd_sn: int) -> None:
        if isinstance(pdu.bhs, NopOut):
            old(self, pdu, cmd_sn)

    return out_of_order


FAULTS: Final = (
    Fault(
        "StatSN stays", wrap(Numbering, "next_stat_sn", _same_number), {"flow.numbers": FAIL, "flow.full-window": FAIL}
    ),
    Fault("MaxCmdSN goes back", wrap(Numbering, "max_cmd_sn", _goes_back), {"flow.numbers": FAIL}),
    Fault("the window is not given back", wrap(Numbering, "end", _shrinks), {"flow.full-window": FAIL}),
    Fault(
        "anything at any time",
        wrap(Session, "_out_of_order", _at_once),
        {
            "flow.beyond-window": FAIL,
            "flow.used-number": FAIL,
            "flow.gap": FAIL,
        },
    ),
    Fault("what comes early is lost", wrap(Session, "_out_of_order", _no_early), {"flow.gap": FAIL}),
    Fault("immediate requests count", wrap(Session, "control_notify", _counts_immediate), {"flow.immediate": FAIL}),
    Fault(
        "no immediate commands", wrap(Session, "control_notify", _rejects_immediate), {"flow.immediate-command": WARN}
    ),
    Fault("no CmdSN 0", wrap(Numbering, "begin", _no_wrap), {"flow.wrap": FAIL}),
    Fault("pings come back empty", _pings(lambda data: b""), {"flow.ping": WARN, "flow.one-way-ping": FAIL}),
    Fault("pings come back changed", _pings(lambda data: data[::-1]), {"flow.ping": FAIL}),
    Fault("a number is left out", wrap(Session, "_text_request", _text_unnumbered), {"flow.text": FAIL}),
    Fault("closed at login", wrap(TargetLogin, "_max_cmd_sn", _login_response), {"flow.login-window": FAIL}),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
