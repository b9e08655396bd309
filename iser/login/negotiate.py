"""Negotiation of keys by one side of a connection (RFC 7143 section 6.2), as the table of :mod:`iser.login.keys` says.

Ways of real peers that it allows for:

* LIO leaves out an answer that the offer forces (Yes to an OR key, No to an AND key): :meth:`Negotiation.close`
  takes it as given.
* LIO and tgt answer NotUnderstood to declarations, which want no answer: ignored.
* libiscsi reads every numeric answer with a decimal parser, so that "Irrelevant" becomes 0: keys that mean nothing
  in a discovery session are answered with a value, which section 6.2 allows.
* open-iscsi gives up on a key that it does not know: as the target we make an RFC 7145 declaration only after the
  initiator has made the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from iser.errors import LocalProtocolError, NegotiationError
from iser.login.keys import KEYS, NO, YES, Key, Kind, Phase, Role, Scope, Transport, Value, format_value
from iser.login.params import NegotiatedParameters, Wishes
from iser.login.text import IRRELEVANT, NOT_UNDERSTOOD, REJECT, RESERVED_VALUES, Pair

__all__ = ["Negotiation", "accept", "check_answer"]

# Those whose outcome others depend on come first, whatever their place in the text.
_ORDER: Final = {"SessionType": 0, "RDMAExtensions": 1, "MaxBurstLength": 2}
_RECV_LENGTH: Final = KEYS["MaxRecvDataSegmentLength"]
_RDMA: Final = KEYS["RDMAExtensions"]
_FIRST_BURST: Final = KEYS["FirstBurstLength"]
# Where a default beyond a target's wish would harm it.  All are keys that every initiator knows.
_LIMITS: Final = tuple(
    KEYS[name]
    for name in (
        "MaxConnections",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "TargetRecvDataSegmentLength",
        "InitiatorRecvDataSegmentLength",
    )
)


def accept(key: Key, offer: Value, wish: Value | tuple[str, ...]) -> Value | None:
    """The outcome of an ``offer`` for an acceptor that wishes ``wish``; None if a list has nothing acceptable."""
    if key.kind is Kind.AND:
        return bool(offer and wish)
    if key.kind is Kind.OR:
        return bool(offer or wish)
    if key.kind is Kind.LIST:
        choices = wish if isinstance(wish, tuple) else (wish,)
        return next((choice for choice in str(offer).split(",") if choice in choices), None)
    if isinstance(wish, tuple):
        raise LocalProtocolError(f"{key.name}: {wish!r} is a list; wish for one value")
    return max(int(offer), int(wish)) if key.kind is Kind.MAXIMUM else min(int(offer), int(wish))


def check_answer(key: Key, offered: Value | tuple[str, ...], answer: Value) -> None:
    """:class:`NegotiationError` unless ``answer`` can follow from what we ``offered`` (section 6.2.2)."""
    if isinstance(offered, tuple):
        good = answer in offered
    elif key.kind in (Kind.AND, Kind.MINIMUM):
        good = int(answer) <= int(offered)
    else:
        good = int(answer) >= int(offered)
    if not good:
        raise NegotiationError(key.name, f"the peer answered {answer} to our offer of {format_value(offered)}")


def _forced(key: Key, offered: Value | tuple[str, ...]) -> bool:
    return (key.kind is Kind.AND and offered is False) or (key.kind is Kind.OR and offered is True)


def _session_part(params: NegotiatedParameters) -> NegotiatedParameters:
    """``params`` with all that belongs to one connection back at its default."""
    fresh: dict[str, Any] = {}
    for key in KEYS.values():
        if key.scope is Scope.CONNECTION and key.field:
            suffixes = ("_initiator", "_target") if key.by_sender else ("",)
            fresh |= dict.fromkeys((key.field + suffix for suffix in suffixes), key.parse(key.default))
    return replace(params, **fresh)


class Negotiation:
    """One side's bookkeeping for one connection.

    ``leading`` is whether it is the first connection of its session; for a later one ``base`` holds the session's
    parameters.  :attr:`params` is the outcome so far.
    """

    def __init__(
        self,
        role: Role,
        transport: Transport,
        wishes: Wishes,
        *,
        discovery: bool = False,
        leading: bool = True,
        base: NegotiatedParameters | None = None,
    ) -> None:
        self._role = role
        self._peer = Role.TARGET if role is Role.INITIATOR else Role.INITIATOR
        self._iser = transport == "iser"
        self._wishes = wishes
        self._discovery = discovery
        self._leading = leading
        self._base = _session_part(base) if base else NegotiatedParameters()
        self._offered: dict[str, Value | tuple[str, ...]] = {}
        self._declared: set[str] = set()
        self._settled: dict[str, str] = {}  # as the peer sent it
        self._values: dict[str, Any] = {}  # by field of NegotiatedParameters, of that field's type

    @property
    def outstanding(self) -> frozenset[str]:
        """The keys that we offered and that the peer has not answered."""
        return frozenset(self._offered)

    @property
    def params(self) -> NegotiatedParameters:
        """The outcome so far."""
        params = replace(self._base, **self._values)
        return replace(params, first_burst_length=min(params.first_burst_length, params.max_burst_length))

    def is_settled(self, name: str) -> bool:
        """Whether the peer has declared or answered ``name``, or offered it."""
        return name in self._settled

    # What we say first.

    def offers(self) -> list[Pair]:
        """All that we offer and declare as the initiator, RDMAExtensions first; remembered as offered."""
        pairs: list[Pair] = []
        for key in (_RDMA, *(key for key in KEYS.values() if key is not _RDMA)):
            wish = self._wish(key)
            if wish is not None and Phase.OPERATIONAL in key.phases and self._may_offer(key):
                pairs.append(self._say(key, wish))
        return pairs

    def corrections(self) -> list[Pair]:
        """What a target must offer: keys that the initiator passed over and whose defaults we cannot live with.

        Empty for the default wishes, so that a login ends at the first chance.
        """
        pairs: list[Pair] = []
        for key in _LIMITS:
            wish = self._wish(key)
            known = key.name in self._settled or key.name in self._offered
            if known or wish is None or not self._may_offer(key) or (key.rdma and not self.is_settled(_RDMA.name)):
                continue
            default = key.parse(key.default)
            if accept(key, default, wish) != default:
                pairs.append(self._say(key, wish))
        return pairs

    def declare(self, name: str, value: Value) -> Pair:
        """Declare ``name`` ourselves, whether or not it is wished for."""
        return self._say(KEYS[name], value)

    def declarations(self) -> list[Pair]:
        """What a target declares unasked: the length that it can receive, where that counts, once."""
        wish = self._wish(_RECV_LENGTH)
        if wish is None or not self._may_offer(_RECV_LENGTH) or _RECV_LENGTH.name in self._declared:
            return []
        return [self._say(_RECV_LENGTH, wish)]

    def _say(self, key: Key, value: Value | tuple[str, ...]) -> Pair:
        if not key.declared:
            self._offered[key.name] = value
        else:
            self._declared.add(key.name)
            # Limits on what we send are the peer's declarations, not ours.
            if key.by_sender or key.senders == self._role or not key.rdma:
                self._values[self._field(key, self._role)] = value if not isinstance(value, tuple) else value[0]
        return key.name, format_value(value)

    def _wish(self, key: Key) -> Value | tuple[str, ...] | None:
        if key is _RDMA:
            return self._iser and not self._discovery
        if self._iser and key.field in ("header_digest", "data_digest"):
            return ("None",)
        return self._wishes.get(key.field) if key.field in Wishes.__slots__ else None

    def _may_offer(self, key: Key) -> bool:
        if self._role not in key.senders or (key.leading and not self._leading):
            return False
        if self._discovery:
            return key.discovery
        if key is _RECV_LENGTH:
            return not self._iser
        return self._iser or not (key.rdma or key is _RDMA)

    @staticmethod
    def _field(key: Key, sender: Role) -> str:
        if not key.by_sender:
            return key.field
        return f"{key.field}_{'initiator' if sender is Role.INITIATOR else 'target'}"

    # What the peer says.

    def receive(self, pairs: Iterable[Pair], phase: Phase) -> list[Pair]:
        """Take the peer's offers, declarations and answers; our answers to them.

        Raises :class:`NegotiationError` for a key in the wrong phase or from the wrong side, a key negotiated twice,
        and an answer that cannot follow from our offer.  An offer of an illegal value is answered with Reject.
        """
        answers: list[Pair] = []
        for name, value in sorted(pairs, key=lambda pair: _ORDER.get(pair[0], len(_ORDER))):
            answer = self._take(name, value, phase)
            if answer is not None:
                answers.append((name, answer))
        return answers

    def _take(self, name: str, value: str, phase: Phase) -> str | None:
        key = KEYS.get(name)
        if key is None:
            return None if value in RESERVED_VALUES else NOT_UNDERSTOOD
        if name in self._offered:
            self._take_answer(key, value)
            return None
        if value in RESERVED_VALUES and name in self._declared:
            return None
        self._check_sender(key, phase)
        if self._settled.get(name) == value and (key.declared or self._role is Role.INITIATOR):
            return None  # said again; harmless
        if name in self._settled:
            raise NegotiationError(name, "the peer negotiates it a second time; once is allowed")
        return self._take_offer(key, value)

    def _check_sender(self, key: Key, phase: Phase) -> None:
        if self._peer not in key.senders:
            raise NegotiationError(key.name, "the peer sent a key that only this side may send")
        if not key.phases & phase:
            raise NegotiationError(key.name, "the peer sent a key that is not allowed in this phase")
        if key.leading and not self._leading:
            raise NegotiationError(key.name, "the peer sent a key of the leading connection on a later one")

    def _take_answer(self, key: Key, value: str) -> None:
        offered = self._offered.pop(key.name)
        self._settled[key.name] = value
        if value in RESERVED_VALUES:
            return  # the default stays
        answer = key.parse(value)
        check_answer(key, offered, answer)
        self._values[key.field] = answer

    def _take_offer(self, key: Key, value: str) -> str | None:
        if key.kind is Kind.OBSOLETE:
            return key.default
        if value in RESERVED_VALUES:
            return None  # an answer to what we never offered
        try:
            offer = key.parse(value)
        except NegotiationError:
            return REJECT
        self._settled[key.name] = value
        if key.declared:
            return self._take_declaration(key, offer)
        if key.rdma and not self._iser:
            return IRRELEVANT
        wish = self._wish(key)
        outcome = accept(key, offer, self._default_wish(key) if wish is None else wish)
        if outcome is None:
            return REJECT
        if key is _FIRST_BURST:  # it must not be above MaxBurstLength (RFC 7143 section 13.14), whatever was offered
            outcome = min(int(outcome), self.params.max_burst_length)
        self._values[key.field] = outcome
        return format_value(outcome)

    @staticmethod
    def _default_wish(key: Key) -> Value | tuple[str, ...]:
        return (key.default,) if key.kind is Kind.LIST else key.parse(key.default)

    def _take_declaration(self, key: Key, value: Value) -> str | None:
        if key is _RECV_LENGTH and self._iser and not self._discovery:
            return None  # RFC 7145 section 6.2: without meaning here; libiscsi would misread our own
        if key.rdma and not self._iser:
            return None
        if key.field:
            self._values[self._field(key, self._peer)] = value
        if key.rdma and key.name not in self._declared and self._role in key.senders:
            wish = self._wish(key)
            if wish is not None:
                return self._say(key, wish)[1]
        return None

    # The end.

    def close(self) -> NegotiatedParameters:
        """End the negotiation: an answer that was left out counts if our offer forced it.

        Raises :class:`NegotiationError` for an unanswered key of another kind, and over iSER in a normal session for
        RDMAExtensions=No (RFC 7145 section 6.3).
        """
        for name, offered in tuple(self._offered.items()):
            key = KEYS[name]
            if not _forced(key, offered) or isinstance(offered, tuple):
                raise NegotiationError(name, f"the peer left our offer of {format_value(offered)} unanswered")
            self._offered.pop(name)
            self._values[key.field] = offered
        params = self.params
        if self._iser and not self._discovery and not params.rdma_extensions:
            raise NegotiationError(_RDMA.name, f"an iSER session needs {YES} from both sides, and got {NO}")
        return params
