"""The target's side of a login (RFC 7143 section 6.3): requests in, responses out, no clock and no connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from iser.errors import (
    IserError,
    LocalProtocolError,
    LoginError,
    NegotiationError,
    PduError,
    RemoteProtocolError,
    ResourceError,
)
from iser.login.auth import AUTH_METHOD, NoAuth, TargetAuth, part_security_text
from iser.login.directory import Admission, AdmissionRequest, Redirection, TargetDirectory
from iser.login.keys import Phase, Role, Transport
from iser.login.negotiate import Negotiation
from iser.login.params import NegotiatedParameters, Wishes
from iser.login.result import DISCOVERY, NORMAL, LoginResult, TargetAddress, is_iscsi_name
from iser.login.stages import MAX_LOGIN_PDUS, LoginFlags, LoginText, login_flags, next_stage
from iser.login.status import LoginStatus, login_error
from iser.login.text import NONE, Pair, encode_text
from iser.pdu.bhs import LoginRequest, LoginResponse
from iser.pdu.codec import Pdu
from iser.pdu.const import LOGIN_CSG_SHIFT, LOGIN_TRANSIT, Stage, sn_add

__all__ = ["TargetLogin", "TargetLoginConfig"]

_VERSION: Final = 0  # the one version of iSCSI
_IDENTITY: Final = ("SessionType", "InitiatorName", "TargetName")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLoginConfig:
    """``stat_sn`` is that of the first response.

    ``command_window`` is how many commands the initiator may send at once after the login, as every response tells it:
    MaxCmdSN - ExpCmdSN + 1.
    """

    transport: Transport = "iser"
    wishes: Wishes = field(default_factory=Wishes)
    stat_sn: int = 0
    command_window: int = 1


class _Opened(NamedTuple):
    """What the first request brought about."""

    asked: AdmissionRequest
    admission: Admission
    negotiation: Negotiation


class TargetLogin:
    """One connection's login at the target.

    ``auth`` is None for AuthMethod=None.  After :meth:`receive`, either :attr:`done` with a :attr:`result`, or
    :attr:`failed` with :attr:`failure`, or another request is awaited.
    """

    def __init__(self, config: TargetLoginConfig, auth: TargetAuth | None, directory: TargetDirectory) -> None:
        self._config = config
        self._auth: TargetAuth = auth or NoAuth()
        self._directory = directory
        self._stage: Stage | None = None
        self._text = LoginText()
        self._first: LoginRequest | None = None
        self._opened: _Opened | None = None
        self._method: str | None = None
        self._authenticated = False
        self._stat_sn = config.stat_sn
        self._requests = 0
        self._redirect: TargetAddress | None = None
        self._result: LoginResult | None = None
        self.failure: LoginError | None = None

    @property
    def done(self) -> bool:
        """Whether the last response was the final one of a good login."""
        return self._result is not None

    @property
    def failed(self) -> bool:
        """Whether the login has failed; the response that says so is the last."""
        return self.failure is not None

    @property
    def result(self) -> LoginResult:
        """The outcome; :class:`LocalProtocolError` before the login is done."""
        if self._result is None:
            raise LocalProtocolError("the login has no result yet; wait until it is done")
        return self._result

    def receive(self, pdu: Pdu) -> Pdu:
        """The response to ``pdu``.  A fault of the peer or of the directory becomes a response that ends the login.

        Raises :class:`LocalProtocolError` when called after the login is done.
        """
        if self.done:
            raise LocalProtocolError("the login is done; hand PDUs to the session")
        if self.failure is None:
            try:
                return self._answer(pdu)
            except LoginError as error:
                self.failure = error
            except (RemoteProtocolError, NegotiationError) as error:
                self.failure = login_error(LoginStatus.INITIATOR_ERROR, str(error))
            except ResourceError as error:
                self.failure = login_error(LoginStatus.OUT_OF_RESOURCES, str(error))
            except IserError as error:
                self.failure = login_error(LoginStatus.TARGET_ERROR, str(error))
        return self._refusal(pdu, self.failure)

    def _answer(self, pdu: Pdu) -> Pdu:
        request = pdu.bhs
        if not isinstance(request, LoginRequest):
            name = type(request).__name__
            raise login_error(LoginStatus.INVALID_DURING_LOGIN, f"the initiator sent a {name} during login")
        self._check_header(request)
        flags = login_flags(request.flags)
        to = next_stage(self._stage, flags.csg, flags.nsg)
        if self._stage is None:
            self._stage = Stage(flags.csg)
        if self._text.sending:
            if pdu.data or flags.more:
                raise PduError("the initiator sent text before it had all of ours")
            return self._response(request, *self._text.next_part())
        pairs = self._text.take(pdu, flags)
        if pairs is None:
            return self._response(request, b"", flags.csg << LOGIN_CSG_SHIFT)
        return self._answer_text(request, flags, to, pairs)

    def _check_header(self, request: LoginRequest) -> None:
        self._requests += 1
        if self._requests > MAX_LOGIN_PDUS:
            raise PduError(f"the initiator sent more than {MAX_LOGIN_PDUS} login requests")
        if request.version_min > _VERSION:
            version = request.version_min
            raise login_error(LoginStatus.UNSUPPORTED_VERSION, f"the initiator wants iSCSI version {version} or later")
        first = self._first
        if first is None:
            self._first = request
        elif (request.isid, request.tsih, request.itt, request.cid) != (first.isid, first.tsih, first.itt, first.cid):
            raise PduError("the initiator changed ISID, TSIH, ITT or CID during login")

    def _answer_text(self, request: LoginRequest, flags: LoginFlags, to: Stage, pairs: list[Pair]) -> Pdu:
        answers: list[Pair] = []
        if self._opened is None:
            self._opened = self._open(request, dict(pairs))
            answers += self._introduction(self._opened)
        else:
            self._check_identity(self._opened.negotiation, pairs)
        negotiation = self._opened.negotiation
        if flags.csg == Stage.SECURITY:
            pairs, said = self._authenticate(pairs)
            answers += said + negotiation.receive(pairs, Phase.SECURITY)
        else:
            self._check_authenticated()
            answers += negotiation.receive(pairs, Phase.OPERATIONAL)
            answers += negotiation.declarations() + negotiation.corrections()
        if flags.nsg is None or negotiation.outstanding or not self._authenticated:
            return self._response(request, *self._text.load(answers, flags.csg << LOGIN_CSG_SHIFT))
        return self._transit(request, self._opened, to, answers)

    def _transit(self, request: LoginRequest, opened: _Opened, to: Stage, answers: list[Pair]) -> Pdu:
        csg = (self._stage or 0) << LOGIN_CSG_SHIFT
        final = to is Stage.FULL_FEATURE
        params = self._close(opened.negotiation) if final else None
        data, bits = self._text.load(answers, LOGIN_TRANSIT | csg | to)
        if self._text.sending:
            # The last part will answer a request without T, so it must not have T either; the initiator asks again.
            self._text.final_flags = csg
            return self._response(request, data, bits)
        tsih = request.tsih or (self._directory.grant_tsih(opened.asked) if final else 0)
        response = self._response(request, data, bits, tsih)
        self._stage = to
        if params is not None:
            self._result = self._outcome(request, params, tsih)
        return response

    # The first request.

    def _open(self, request: LoginRequest, named: dict[str, str]) -> _Opened:
        asked = self._identify(request, named)
        admission = self._directory.admit(asked)
        if isinstance(admission, Redirection):
            self._redirect = admission.address
            permanent = admission.permanent
            status = LoginStatus.MOVED_PERMANENTLY if permanent else LoginStatus.MOVED_TEMPORARILY
            raise login_error(status, f"{asked.target_name} is at {admission.address}")
        self._auth = admission.auth or self._auth
        negotiation = Negotiation(
            Role.TARGET,
            self._config.transport,
            self._config.wishes,
            discovery=asked.session_type == DISCOVERY,
            leading=not asked.tsih,
            base=admission.session_params,
        )
        return _Opened(asked, admission, negotiation)

    def _identify(self, request: LoginRequest, named: dict[str, str]) -> AdmissionRequest:
        session_type = named.get("SessionType", NORMAL)
        if session_type not in (NORMAL, DISCOVERY):
            raise login_error(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"the initiator wants a {session_type!r} session")
        initiator, target = named.get("InitiatorName"), named.get("TargetName", "")
        if initiator is None or (not target and session_type == NORMAL):
            missing = "TargetName" if initiator else "InitiatorName"
            raise login_error(LoginStatus.MISSING_PARAMETER, f"the initiator's first request is without {missing}")
        if not is_iscsi_name(initiator):
            raise NegotiationError("InitiatorName", f"{initiator[:64]!r} is no iSCSI name")
        if target and not is_iscsi_name(target):
            raise login_error(LoginStatus.NOT_FOUND, f"{target[:64]!r} is no iSCSI name")
        if request.tsih and session_type == DISCOVERY:
            message = "the initiator wants a discovery session of more than one connection"
            raise login_error(LoginStatus.CANNOT_INCLUDE_IN_SESSION, message)
        alias = named.get("InitiatorAlias", "")
        transport = self._config.transport
        return AdmissionRequest(
            initiator, alias, request.isid, request.tsih, request.cid, target, session_type, transport
        )

    @staticmethod
    def _introduction(opened: _Opened) -> list[Pair]:
        """What the first response of a normal session declares (RFC 7143 section 13.9)."""
        asked, admission, negotiation = opened
        if asked.session_type == DISCOVERY:
            return []
        pairs = [negotiation.declare("TargetPortalGroupTag", admission.portal_group_tag)]
        if admission.target_alias:
            pairs.append(negotiation.declare("TargetAlias", admission.target_alias))
        return pairs

    @staticmethod
    def _check_identity(negotiation: Negotiation, pairs: Sequence[Pair]) -> None:
        for name, _ in pairs:
            if name in _IDENTITY and not negotiation.is_settled(name):
                raise NegotiationError(name, "the initiator sent it after the first request")

    # Authentication.

    def _authenticate(self, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
        """Of a security stage's ``pairs``, those that are not the method's; and our answers to those that are."""
        offered, plain, method_pairs = part_security_text(pairs)
        answers: list[Pair] = []
        if offered is not None:
            answers.append((AUTH_METHOD, self._choose_method(offered)))
            method_pairs[:0] = answers
        if self._method is None and NONE in self._auth.methods:
            self._authenticated = True  # no method asked for, and none needed
        if self._method is None or self._authenticated:
            return plain + method_pairs, answers
        said, self._authenticated = self._step(method_pairs)
        return plain, answers + said

    def _choose_method(self, offered: str) -> str:
        if self._method is not None or self._authenticated:
            raise NegotiationError(AUTH_METHOD, "the initiator negotiates it a second time; once is allowed")
        methods = self._auth.methods
        self._method = next((method for method in offered.split(",") if method in methods), None)
        if self._method is None:
            wanted = ", ".join(methods)
            raise login_error(
                LoginStatus.AUTHENTICATION_FAILURE, f"the initiator offers AuthMethod {offered}; needed is {wanted}"
            )
        if self._method == NONE:
            self._auth = NoAuth()
        return self._method

    def _step(self, pairs: Sequence[Pair]) -> tuple[list[Pair], bool]:
        try:
            return self._auth.step(pairs)
        except (RemoteProtocolError, NegotiationError) as error:
            raise login_error(LoginStatus.AUTHENTICATION_FAILURE, str(error)) from error

    def _check_authenticated(self) -> None:
        if not self._authenticated and NONE not in self._auth.methods:
            raise login_error(LoginStatus.AUTHENTICATION_FAILURE, "the initiator passed over the security stage")
        self._authenticated = True

    # The end.

    def _close(self, negotiation: Negotiation) -> NegotiatedParameters:
        if self._stage is Stage.SECURITY and negotiation.corrections():
            message = "the initiator passed over the operational stage, whose defaults this target cannot accept"
            raise login_error(LoginStatus.MISSING_PARAMETER, message)
        try:
            return negotiation.close()
        except NegotiationError as error:
            if error.key == "RDMAExtensions" and not negotiation.is_settled(error.key):
                message = "the initiator did not offer RDMAExtensions=Yes, which iSER needs"
                raise login_error(LoginStatus.MISSING_PARAMETER, message) from None
            raise

    def _outcome(self, request: LoginRequest, params: NegotiatedParameters, tsih: int) -> LoginResult:
        return LoginResult(
            params=params,
            isid=request.isid,
            tsih=tsih,
            cid=request.cid,
            cmd_sn=request.cmd_sn,
            stat_sn=self._stat_sn,
            exp_stat_sn=request.exp_stat_sn,
            max_cmd_sn=self._max_cmd_sn(request),
            new_session=not request.tsih,
        )

    def _max_cmd_sn(self, request: LoginRequest) -> int:
        return sn_add(request.cmd_sn, self._config.command_window - 1)

    def _response(self, request: LoginRequest, data: bytes, flags: int, tsih: int = 0) -> Pdu:
        stat_sn = self._stat_sn
        self._stat_sn = sn_add(stat_sn, 1)
        return Pdu(
            LoginResponse(
                flags=flags,
                isid=request.isid,
                tsih=tsih or request.tsih,
                itt=request.itt,
                stat_sn=stat_sn,
                exp_cmd_sn=request.cmd_sn,
                max_cmd_sn=self._max_cmd_sn(request),
            ),
            data,
        )

    def _refusal(self, pdu: Pdu, failure: LoginError) -> Pdu:
        bhs = pdu.bhs
        redirect = self._redirect
        return Pdu(
            LoginResponse(
                flags=(self._stage or 0) << LOGIN_CSG_SHIFT,
                isid=bhs.isid if isinstance(bhs, LoginRequest) else bytes(6),
                itt=bhs.itt,
                stat_sn=self._stat_sn,
                status_class=failure.status_class,
                status_detail=failure.status_detail,
            ),
            encode_text([("TargetAddress", str(redirect))]) if redirect else b"",
        )
