"""Each login case finds the fault that it looks for."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from initiator.conformance.talk import offers
from iser.login import LoginStatus, TargetLogin, login_error
from iser.login import target as target_login
from iser.login.stages import LoginFlags, LoginText
from iser.login.text import decode_text
from iser.pdu import NopIn, NopOut, Pdu, Stage
from target.connection import Connection
from target.registry import Registry
from target.session import Session
from tests.initiator.conformance.bad import FAIL, WARN, Fault, both, check, wrap
from tests.target.peer import TARGET

__all__ = ["FAULTS"]


def _named(**forced: str) -> Any:
    """The target takes a name for granted, whatever the initiator says."""

    def make(old: Any) -> Any:
        def answer(self: TargetLogin, request: Any, flags: Any, to: Any, pairs: Any) -> Any:
            return old(self, request, flags, to, list((dict(pairs) | forced).items()))

        return answer

    return make


def _response(**changes: Any) -> Any:
    """Every login response has other fields."""

    def make(old: Any) -> Any:
        def respond(self: TargetLogin, *args: Any) -> Pdu:
            pdu = old(self, *args)
            return Pdu(pdu.bhs._replace(**changes), pdu.data)

        return respond

    return make


def _take_parts(old: Any) -> Any:
    del old
    return lambda self, pdu, flags: list(decode_text(bytes(pdu.data).rpartition(b"\0")[0] + b"\0"))


def _never_end(old: Any) -> Any:
    def end(self: Connection, why: str) -> None:
        if not why.startswith("login refused"):
            old(self, why)

    return end


def _answer_pings(old: Any) -> Any:
    def request(self: Connection, pdu: Pdu) -> None:
        if isinstance(pdu.bhs, NopOut):
            self._datamover.send_control(Pdu(NopIn(itt=pdu.bhs.itt)))
        else:
            old(self, pdu)

    return request


def _take_method(old: Any) -> Any:
    def authenticate(self: TargetLogin, pairs: Any) -> Any:
        self._authenticated = True
        return [pair for pair in pairs if pair[0] != "AuthMethod"], [pair for pair in pairs if pair[0] == "AuthMethod"]

    del old
    return authenticate


def _no_key_in_stage(old: Any) -> Any:
    def answer(self: TargetLogin, request: Any, flags: Any, to: Any, pairs: Any) -> Any:
        if self._opened is not None:
            raise login_error(LoginStatus.INITIATOR_ERROR, "one request is all there is")
        return old(self, request, flags, to, pairs)

    return answer


def _same_tsih(old: Any) -> Any:
    def enter(self: Registry, session: Any, nexus: Any) -> Any:
        found = old(self, session, nexus)
        for other in list(self.targets[TARGET].sessions):
            if other is not session:
                other.close("there is room for one session only")
        return found

    return enter


def _second_never(old: Any) -> Any:
    count = 0

    def grant(self: Registry, request: Any) -> int:
        nonlocal count
        count += 1
        if count > 4:
            raise login_error(LoginStatus.OUT_OF_RESOURCES, "no more numbers")
        return int(old(self, request))

    return grant


def _no_flags(old: Any) -> Any:
    def flags(byte: int) -> LoginFlags:
        return LoginFlags(1, old(byte & ~0x40).nsg, more=False)

    return flags


_ALL: Final = dict(offers()) | {"InitiatorName": "iqn.2026-11.test:any", "TargetName": TARGET}


def _not_ready(old: Any) -> Any:
    """A session that takes commands only some time after it said so."""

    def notify(self: Session, pdu: Pdu) -> None:
        now = asyncio.get_running_loop().time()
        if now - self.__dict__.setdefault("_began", now) < 0.03:
            self.close("too early")
        else:
            old(self, pdu)

    return notify


FAULTS: Final = (
    Fault("not ready when it says so", wrap(Session, "control_notify", _not_ready), {"login.ready": FAIL}),
    Fault("CSG and C mean nothing", wrap(target_login, "login_flags", _no_flags), {
        "login.reserved-stage": FAIL, "login.transit-and-continue": FAIL,
    }),
    Fault(
        "any text will do",
        both(
            wrap(LoginText, "take", lambda _: lambda self, pdu, flags: []),
            wrap(TargetLogin, "_answer_text", _named(**_ALL)),
        ),
        {"login.bad-text": FAIL},
    ),
    Fault("TSIH 0", wrap(TargetLogin, "_response", _response(tsih=0)), {"login.direct": FAIL}),
    Fault("numbers run out", wrap(Registry, "grant_tsih", _second_never), {"login.many": FAIL}),
    Fault("one request is all", wrap(TargetLogin, "_answer_text", _no_key_in_stage), {
        "login.security-stage": FAIL, "login.names-first": FAIL,
    }),
    Fault("the C bit means nothing", wrap(LoginText, "take", _take_parts), {"login.split-text": FAIL}),
    Fault("any target name will do", wrap(TargetLogin, "_answer_text", _named(TargetName=TARGET)), {
        "login.unknown-target": FAIL, "login.no-target-name": FAIL, "login.refusal-closes": WARN,
    }),
    Fault("no name needed", wrap(TargetLogin, "_answer_text", _named(InitiatorName="iqn.2026-11.test:any")), {
        "login.no-initiator-name": FAIL,
    }),
    Fault("any session type", wrap(TargetLogin, "_answer_text", _named(SessionType="Normal")), {
        "login.session-type": FAIL,
    }),
    Fault("headers are not checked", wrap(TargetLogin, "_check_header", lambda _: lambda self, request: None), {
        "login.version": FAIL, "login.changed-isid": WARN,
    }),
    Fault("a session may be joined", wrap(Registry, "_refuse_joining", lambda _: lambda self, request: None), {
        "login.unknown-tsih": WARN, "login.second-connection": WARN,
    }),
    Fault("no reinstatement", wrap(Registry, "enter", lambda old: lambda *session: old(*session) and None), {
        "login.reinstatement": FAIL,
    }),
    Fault("one session for all", wrap(Registry, "enter", _same_tsih), {"login.parallel": FAIL}),
    Fault("any method", wrap(TargetLogin, "_authenticate", _take_method), {"login.auth-method": FAIL}),
    Fault("any step", wrap(target_login, "next_stage", lambda _: lambda *step: Stage.FULL_FEATURE), {
        "login.backward": FAIL, "login.same-stage": FAIL,
    }),
    Fault("a refused login stays", wrap(Connection, "end", _never_end), {"login.refusal-closes": WARN}),
    Fault("pings are answered before the login", wrap(Connection, "_login_request", _answer_pings), {
        "login.not-a-login": FAIL,
    }),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    await check(fault, monkeypatch)
