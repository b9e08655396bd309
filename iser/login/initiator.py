"""The initiator's side of a login (RFC 7143 section 6.3): responses in, requests out, no clock and no connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from iser.errors import LocalProtocolError, LoginError, NegotiationError, PduError, TextError, UsageError
from iser.login.auth import AUTH_METHOD, InitiatorAuth, NoAuth, part_security_text
from iser.login.keys import Phase, Role, Transport
from iser.login.negotiate import Negotiation
from iser.login.params import NegotiatedParameters, Wishes
from iser.login.result import DISCOVERY, NORMAL, LoginResult, TargetAddress, is_iscsi_name
from iser.login.stages import MAX_LOGIN_PDUS, LoginFlags, LoginText, login_flags, next_stage
from iser.login.status import describe_status
from iser.login.text import NONE, NOT_UNDERSTOOD, Pair, decode_text
from iser.pdu.bhs import LoginRequest, LoginResponse
from iser.pdu.codec import Pdu
from iser.pdu.const import LOGIN_CSG_SHIFT, LOGIN_STAGE_MASK, LOGIN_TRANSIT, Stage, sn_add

__all__ = ["InitiatorLogin", "InitiatorLoginConfig"]

_VERSION: Final = 0  # the one version of iSCSI
_ISID_LENGTH: Final = 6
_FINAL: Final = LOGIN_TRANSIT | Stage.FULL_FEATURE
_NO_PAIR: Final = b"break-off\0"  # no key=value: every target has to refuse it


@dataclass(frozen=True, slots=True, kw_only=True)
class InitiatorLoginConfig:
    """Who logs in where.

    ``isid`` is 6 bytes and ``tsih`` 0 for a new session; for a further connection of one, ``session_params`` are the
    session's.  ``cmd_sn`` is the first command's.  ``security_stage`` goes through that stage even without
    authentication.  Raises :class:`UsageError` for values that cannot work.
    """

    initiator_name: str
    isid: bytes
    target_name: str = ""
    initiator_alias: str = ""
    discovery: bool = False
    transport: Transport = "iser"
    wishes: Wishes = field(default_factory=Wishes)
    tsih: int = 0
    cid: int = 1
    itt: int = 0
    cmd_sn: int = 1
    security_stage: bool = False
    session_params: NegotiatedParameters | None = None

    def __post_init__(self) -> None:
        if not is_iscsi_name(self.initiator_name):
            raise UsageError(
                f"initiator_name: {self.initiator_name!r} is no iSCSI name; use one like iqn.2026-11.org:a"
            )
        if not (is_iscsi_name(self.target_name) or (self.discovery and not self.target_name)):
            raise UsageError(f"target_name: {self.target_name!r} is no iSCSI name; use one like iqn.2026-11.org:b")
        if len(self.isid) != _ISID_LENGTH:
            raise UsageError(f"isid: {len(self.isid)} bytes; give {_ISID_LENGTH}")


class InitiatorLogin:
    """One connection's login at the initiator.

    ``auth`` is None for AuthMethod=None, which passes over the security stage unless the configuration asks for it.
    With the default wishes a login to any known target is one exchange.
    """

    def __init__(self, config: InitiatorLoginConfig, auth: InitiatorAuth | None = None) -> None:
        self._config = config
        self._auth: InitiatorAuth = auth or NoAuth()
        self._secure = config.security_stage or tuple(self._auth.methods) != (NONE,)
        self._stage = Stage.SECURITY if self._secure else Stage.OPERATIONAL
        self._text = LoginText()
        self._method: str | None = None
        self._nsg: int | None = None  # of the request that awaits its response
        self._exp_stat_sn = 0
        self._requests = 0
        self._result: LoginResult | None = None
        self._negotiation = Negotiation(
            Role.INITIATOR,
            config.transport,
            config.wishes,
            discovery=config.discovery,
            leading=not config.tsih,
            base=config.session_params,
        )
        self._awaited = False  # whether the target waits for our next request
        self.failed = False
        self.redirect: TargetAddress | None = None
        """Where the target has moved, after a :class:`LoginError` of class 1."""

    @property
    def done(self) -> bool:
        """Whether the final response has come."""
        return self._result is not None

    @property
    def result(self) -> LoginResult:
        """The outcome; :class:`LocalProtocolError` before the login is done."""
        if self._result is None:
            raise LocalProtocolError("the login has no result yet; wait until it is done")
        return self._result

    @property
    def request_is_final(self) -> bool:
        """Whether the request returned last may be answered with the final response.

        The receive buffers of the full-feature phase must be posted before it is sent.  It can be true more than once:
        a target may withhold its T.
        """
        return self._nsg == Stage.FULL_FEATURE

    def start(self) -> Pdu:
        """The first request; :class:`LocalProtocolError` the second time."""
        if self._requests:
            raise LocalProtocolError("the login has begun; make a new one for each connection")
        pairs = self._introduction()
        if self._stage is Stage.OPERATIONAL:
            return self._say(pairs + self._negotiation.offers(), Stage.FULL_FEATURE)
        methods = self._auth.methods
        pairs.append((AUTH_METHOD, ",".join(methods)))
        # T at once if no authentication will do: LIO takes no empty request to say so in.
        return self._say(pairs, Stage.OPERATIONAL if NONE in methods else None)

    def _introduction(self) -> list[Pair]:
        config, declare = self._config, self._negotiation.declare
        pairs = [declare("InitiatorName", config.initiator_name)]
        if config.initiator_alias:
            pairs.append(declare("InitiatorAlias", config.initiator_alias))
        if config.target_name:
            pairs.append(declare("TargetName", config.target_name))
        if not config.tsih:
            pairs.append(declare("SessionType", DISCOVERY if config.discovery else NORMAL))
        return pairs

    def receive(self, pdu: Pdu) -> Pdu | None:
        """The next request, or None when the login is done.

        Raises :class:`LoginError` when the target ends the login (see :attr:`redirect`), a
        :class:`RemoteProtocolError` when it breaks the protocol, :class:`NegotiationError` when its values cannot be
        agreed to; the login has failed then.  :class:`LocalProtocolError` when no response is awaited.
        """
        if self.done or self.failed or not self._requests:
            raise LocalProtocolError("no login response is awaited; start a login first, and hand later PDUs on")
        self.failed, self._awaited = True, False
        request = self._answer(pdu)
        self.failed = False
        return request

    def break_off(self) -> Pdu | None:
        """A request that the target has to refuse, where it waits for one and the login has failed on our side.

        LIO does not notice that an iSER connection ends between two requests of a login: its portal group stays with
        that login for ever and takes no other.
        """
        if not (self.failed and self._awaited) or self._requests >= MAX_LOGIN_PDUS:
            return None
        self._awaited = False
        return self._request(_NO_PAIR, self._stage << LOGIN_CSG_SHIFT)

    def _answer(self, pdu: Pdu) -> Pdu | None:
        response = pdu.bhs
        if not isinstance(response, LoginResponse):
            raise PduError(f"the target sent a {type(response).__name__} during login")
        if response.status_class:
            raise self._refused(pdu, response)
        self._awaited = response.flags & _FINAL != _FINAL
        flags = self._check_header(response)
        if self._text.sending:
            if pdu.data or flags.more or flags.nsg is not None:
                raise PduError("the target sent text before it had all of ours")
            return self._request(*self._text.next_part())
        pairs = self._text.take(pdu, flags)
        if pairs is None:
            return self._say([], None)
        if self._stage is Stage.SECURITY:
            return self._secure_step(flags, pairs)
        return self._operate(response, flags, pairs)

    def _refused(self, pdu: Pdu, response: LoginResponse) -> LoginError:
        if response.status_class == 1:
            try:
                address = dict(decode_text(pdu.data, unique=False)).get("TargetAddress")
                self.redirect = TargetAddress.parse(address) if address else None
            except TextError:
                self.redirect = None  # a refusal all the same
        what = describe_status(response.status_class, response.status_detail)
        where = self._config.target_name or "the discovery portal"
        return LoginError(f"login to {where} refused: {what}", response.status_class, response.status_detail)

    def _check_header(self, response: LoginResponse) -> LoginFlags:
        # ExpCmdSN and MaxCmdSN are not checked: tgt sends the first command's number plus 1, and that number.
        if response.itt != self._config.itt:
            raise PduError(f"the target answered ITT {response.itt:#x}, which is not the login's {self._config.itt:#x}")
        if response.version_active != _VERSION:
            raise PduError(f"the target chose iSCSI version {response.version_active}, which we did not offer")
        flags = login_flags(response.flags)
        if flags.csg != self._stage:
            raise PduError(f"the target answered in stage {flags.csg}, not in {self._stage.value}")
        if flags.nsg is not None:
            if self._nsg is None or flags.nsg > self._nsg:
                raise PduError(f"the target went to stage {flags.nsg} unasked")
            next_stage(self._stage, flags.csg, flags.nsg)
        self._exp_stat_sn = sn_add(response.stat_sn, 1)
        return flags

    def _secure_step(self, flags: LoginFlags, pairs: Sequence[Pair]) -> Pdu:
        chosen, plain, method_pairs = part_security_text(pairs)
        if chosen is not None:
            self._take_method(chosen)
            method_pairs.insert(0, (AUTH_METHOD, chosen))
        answers = self._negotiation.receive(plain, Phase.SECURITY)
        if self._method is None and (flags.nsg is not None or method_pairs):
            if NONE not in self._auth.methods:
                raise NegotiationError(AUTH_METHOD, "the target chose no method")
            self._take_method(NONE)
        said, last = self._auth.step(method_pairs) if self._method is not None else ([], False)
        if flags.nsg is None:
            return self._say(answers + said, Stage.OPERATIONAL if last else None)
        if not last:
            raise PduError("the target ended the security stage before authentication was complete")
        self._stage = Stage.OPERATIONAL
        return self._say(self._negotiation.offers(), Stage.FULL_FEATURE)

    def _take_method(self, method: str) -> None:
        if self._method is not None or method not in self._auth.methods:
            offered = ",".join(self._auth.methods)
            raise NegotiationError(AUTH_METHOD, f"the target chose {method!r} of our {offered}; check its settings")
        self._method = method
        if method == NONE:
            self._auth = NoAuth()

    def _operate(self, response: LoginResponse, flags: LoginFlags, pairs: Sequence[Pair]) -> Pdu | None:
        answers = self._negotiation.receive(pairs, Phase.OPERATIONAL)
        if flags.nsg is None:
            return self._say(answers, Stage.FULL_FEATURE)
        offered = dict(pairs)
        for name, value in answers:
            if value not in (NOT_UNDERSTOOD, offered[name]):  # else it has its way without our answer
                raise NegotiationError(name, f"the target offered {offered[name]} and took no answer")
        config = self._config
        tsih = response.tsih or config.tsih
        if not tsih and not config.discovery:
            raise PduError("the target ended the login without a TSIH")
        self._result = LoginResult(
            params=self._negotiation.close(),
            isid=config.isid,
            tsih=tsih,
            cid=config.cid,
            cmd_sn=config.cmd_sn,
            stat_sn=self._exp_stat_sn,
            exp_stat_sn=self._exp_stat_sn,
            max_cmd_sn=response.max_cmd_sn,
            new_session=not config.tsih,
        )
        return None

    def _say(self, pairs: Sequence[Pair], nsg: Stage | None) -> Pdu:
        flags = self._stage << LOGIN_CSG_SHIFT
        return self._request(*self._text.load(pairs, flags if nsg is None else flags | LOGIN_TRANSIT | nsg))

    def _request(self, data: bytes, flags: int) -> Pdu:
        self._requests += 1
        if self._requests > MAX_LOGIN_PDUS:
            raise PduError(f"the target did not end the login within {MAX_LOGIN_PDUS} exchanges")
        self._nsg = flags & LOGIN_STAGE_MASK if flags & LOGIN_TRANSIT else None
        config = self._config
        return Pdu(
            LoginRequest(
                flags=flags,
                isid=config.isid,
                tsih=config.tsih,
                itt=config.itt,
                cid=config.cid,
                cmd_sn=config.cmd_sn,
                exp_stat_sn=self._exp_stat_sn,
            ),
            data,
        )
