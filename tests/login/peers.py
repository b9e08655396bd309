"""Two login machines in one room: a directory of targets, and a run of both to the end over real PDU bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from iser.errors import LoginError
from iser.login import (
    Admission,
    AdmissionRequest,
    InitiatorLogin,
    InitiatorLoginConfig,
    LoginStatus,
    Redirection,
    TargetAuth,
    TargetLogin,
    TargetLoginConfig,
    Transport,
    Wishes,
    decode_text,
    encode_text,
    login_error,
)
from iser.login.auth import AuthStep
from iser.login.text import Pair
from iser.pdu.bhs import LoginRequest, LoginResponse
from iser.pdu.codec import Pdu, decode, encode

INITIATOR = "iqn.2026-11.test:initiator"
TARGET = "iqn.2026-11.test:target"
ISID = bytes.fromhex("80cafe000001")
TSIH = 7


@dataclass
class Directory:
    """Admits everyone to TARGET, unless told otherwise."""

    verdict: Admission | Redirection | LoginError = field(default_factory=Admission)
    no_tsih: LoginError | None = None
    asked: list[AdmissionRequest] = field(default_factory=list)

    def admit(self, request: AdmissionRequest) -> Admission | Redirection:
        self.asked.append(request)
        if isinstance(self.verdict, LoginError):
            raise self.verdict
        if request.target_name not in ("", TARGET):
            raise login_error(LoginStatus.NOT_FOUND, "no such target")
        return self.verdict

    def grant_tsih(self, request: AdmissionRequest) -> int:
        if self.no_tsih:
            raise self.no_tsih
        return TSIH


class Password:
    """An initiator's method of one challenge and one answer; ``mutual`` wants a proof of the target."""

    def __init__(self, password: str, methods: Sequence[str] = ("CHAP",), *, mutual: bool = False) -> None:
        self.methods = methods
        self.password = password
        self.mutual = mutual
        self.answered = False

    def step(self, pairs: Sequence[Pair]) -> AuthStep:
        said = dict(pairs)
        if "CHAP_C" in said:
            self.answered = True
            return [("CHAP_R", said["CHAP_C"] + self.password)], True
        if self.answered:
            if self.mutual and said.get("CHAP_P") != self.password:
                raise login_error(LoginStatus.AUTHENTICATION_FAILURE, "the target does not know the password")
            return [], True
        return [("CHAP_A", "5")], False


class PasswordTarget:
    """The other end of :class:`Password`."""

    def __init__(self, password: str, methods: Sequence[str] = ("CHAP",), *, proof: str = "") -> None:
        self.methods = methods
        self.password = password
        self.proof = proof

    def step(self, pairs: Sequence[Pair]) -> AuthStep:
        said = dict(pairs)
        if "CHAP_A" in said:
            return [("CHAP_C", "0x1234")], False
        if "CHAP_R" in said:
            if said["CHAP_R"] != "0x1234" + self.password:
                raise login_error(LoginStatus.AUTHENTICATION_FAILURE, "wrong password")
            return ([("CHAP_P", self.proof)] if self.proof else []), True
        return [], False


def initiator_config(
    *,
    transport: Transport = "iser",
    discovery: bool = False,
    wishes: Wishes | None = None,
    target_name: str | None = None,
    initiator_alias: str = "",
    security_stage: bool = False,
) -> InitiatorLoginConfig:
    name = "" if discovery else TARGET
    return InitiatorLoginConfig(
        initiator_name=INITIATOR,
        isid=ISID,
        target_name=name if target_name is None else target_name,
        initiator_alias=initiator_alias,
        discovery=discovery,
        transport=transport,
        wishes=wishes or Wishes(),
        security_stage=security_stage,
    )


def target_login(
    transport: Transport = "iser",
    *,
    wishes: Wishes | None = None,
    auth: TargetAuth | None = None,
    directory: Directory | None = None,
) -> TargetLogin:
    config = TargetLoginConfig(transport=transport, wishes=wishes or Wishes(), stat_sn=0xFFFFFFFF, command_window=8)
    return TargetLogin(config, auth, directory or Directory())


def over_the_wire(pdu: Pdu) -> Pdu:
    return decode(encode(pdu), max_data=8192)


def run(initiator: InitiatorLogin, target: TargetLogin) -> list[tuple[Pdu, Pdu]]:
    """All exchanges of a login, until the initiator is done or raises."""
    exchanges: list[tuple[Pdu, Pdu]] = []
    request: Pdu | None = initiator.start()
    while request is not None:
        response = target.receive(over_the_wire(request))
        exchanges.append((request, response))
        request = initiator.receive(over_the_wire(response))
    return exchanges


def request(flags: int, pairs: Sequence[Pair] = (), **fields: Any) -> Pdu:
    """A login request of our own making."""
    bhs = LoginRequest(flags=flags, isid=ISID, cid=1, cmd_sn=1)
    return Pdu(bhs._replace(**fields), encode_text(pairs))


def response(flags: int, pairs: Sequence[Pair] = (), **fields: Any) -> Pdu:
    """A login response of our own making."""
    bhs = LoginResponse(flags=flags, isid=ISID, tsih=TSIH, stat_sn=5, exp_cmd_sn=1, max_cmd_sn=1)
    return Pdu(bhs._replace(**fields), encode_text(pairs))


def text_of(pdu: Pdu) -> dict[str, str]:
    return dict(decode_text(pdu.data))


def status_of(pdu: Pdu) -> int:
    assert isinstance(pdu.bhs, LoginResponse)
    return pdu.bhs.status_class << 8 | pdu.bhs.status_detail


def flags_of(pdu: Pdu) -> int:
    return pdu.bhs.flags
