"""Text exchanges in full-feature phase (RFC 7143 sections 6.4, 11.10 and 11.11; SendTargets: appendix C).

The sequence numbers of the PDUs are left 0: they are the session's to fill in, with ``bhs._replace``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from iser.errors import LocalProtocolError, NegotiationError, PduError, TextError
from iser.login.keys import KEYS, Transport
from iser.login.params import LOGIN_DATA_LENGTH, NegotiatedParameters
from iser.login.result import DISCOVERY, TargetAddress, is_iscsi_name
from iser.login.text import (
    NOT_UNDERSTOOD,
    REJECT,
    RESERVED_VALUES,
    Pair,
    TextAssembler,
    decode_text,
    encode_text,
    split_text,
)
from iser.pdu.bhs import IMMEDIATE, RESERVED_TAG, TextRequest, TextResponse
from iser.pdu.codec import Pdu
from iser.pdu.const import FINAL, TEXT_CONTINUE, RejectReason, sn_add

__all__ = [
    "ALL_TARGETS",
    "MAX_DISCOVERY_LENGTH",
    "MAX_DISCOVERY_PAIRS",
    "TargetRecord",
    "TextRequester",
    "TextResponder",
    "parse_targets",
    "target_pairs",
]

ALL_TARGETS: Final = "All"
MAX_DISCOVERY_LENGTH: Final = 1024 * 1024  # bytes of the answer to one text request
MAX_DISCOVERY_PAIRS: Final = 16384  # pairs in it
_SEND_TARGETS: Final = "SendTargets"


class TargetRecord(NamedTuple):
    """A target and where it is reached.  No address means: where it was asked for."""

    name: str
    addresses: tuple[TargetAddress, ...] = ()


def target_pairs(records: Iterable[TargetRecord]) -> list[Pair]:
    """The answer to SendTargets."""
    pairs: list[Pair] = []
    for record in records:
        pairs.append(("TargetName", record.name))
        pairs.extend(("TargetAddress", str(address)) for address in record.addresses)
    return pairs


def parse_targets(pairs: Sequence[Pair]) -> list[TargetRecord]:
    """The targets in an answer to SendTargets; other keys are passed over.

    Raises :class:`TextError` for a refusal, a malformed name or address, and an address before any name.
    """
    found: list[tuple[str, list[TargetAddress]]] = []
    for name, value in pairs:
        if name == "TargetName":
            if not is_iscsi_name(value):
                raise TextError(f"the target sent {value[:64]!r} for a target name")
            found.append((value, []))
        elif name == "TargetAddress":
            if not found:
                raise TextError("the target sent an address before any target name")
            found[-1][1].append(TargetAddress.parse(value))
        elif name == _SEND_TARGETS and value in RESERVED_VALUES:
            raise TextError(f"the target answered {value} to SendTargets; use a discovery session")
    return [TargetRecord(name, tuple(addresses)) for name, addresses in found]


class TextRequester:
    """The initiator's side of one text exchange.

    ``itt`` is the tag of all its requests, ``max_data`` the longest data segment that the target takes.  Requests are
    immediate if ``immediate``.  :attr:`pairs` is the answer when :attr:`done`.
    """

    def __init__(
        self, pairs: Iterable[Pair], *, itt: int, max_data: int = LOGIN_DATA_LENGTH, immediate: bool = False
    ) -> None:
        self._parts = list(split_text(encode_text(pairs), max_data))
        self._itt = itt
        self._opcode = TextRequest().opcode | (IMMEDIATE if immediate else 0)
        self._inbox = TextAssembler(MAX_DISCOVERY_LENGTH)
        self._pairs: list[Pair] | None = None

    @property
    def done(self) -> bool:
        """Whether the whole answer has come."""
        return self._pairs is not None

    @property
    def pairs(self) -> list[Pair]:
        """The answer; :class:`LocalProtocolError` before it is whole."""
        if self._pairs is None:
            raise LocalProtocolError("the text exchange has no answer yet; wait until it is done")
        return self._pairs

    def start(self) -> Pdu:
        """The first request."""
        if not self._parts:
            raise LocalProtocolError("the text exchange has begun; make a new one for each")
        return self._next_part(RESERVED_TAG)

    def _next_part(self, ttt: int) -> Pdu:
        data = self._parts.pop(0)
        flags = TEXT_CONTINUE if self._parts else FINAL
        return Pdu(TextRequest(opcode=self._opcode, flags=flags, itt=self._itt, ttt=ttt), data)

    def receive(self, pdu: Pdu) -> Pdu | None:
        """The next request, or None when the answer is whole.

        Raises :class:`PduError` and :class:`TextError` when the target breaks the protocol.
        """
        response = pdu.bhs
        if self.done:
            raise LocalProtocolError("the text exchange is over")
        if not isinstance(response, TextResponse) or response.itt != self._itt:
            raise PduError(f"the target sent a {type(response).__name__} where a Text Response is due")
        final, more = bool(response.flags & FINAL), bool(response.flags & TEXT_CONTINUE)
        if final and (more or self._parts):
            raise PduError("the target ended a text exchange that is not over")
        if not final and response.ttt == RESERVED_TAG:
            raise PduError("the target continues a text exchange without a tag for it")
        if self._parts:
            if pdu.data:
                raise PduError("the target sent text before it had all of ours")
            return self._next_part(response.ttt)
        text = self._inbox.add(pdu.data, not final)
        if text is not None:
            self._pairs = decode_text(text, unique=False, max_pairs=MAX_DISCOVERY_PAIRS)
            return None
        return Pdu(TextRequest(opcode=self._opcode, flags=FINAL, itt=self._itt, ttt=response.ttt))


class TextResponder:
    """The target's side of a connection's text exchanges, one at a time.

    ``targets(name)`` gives the records of one target by name, or of all for :data:`ALL_TARGETS`.  ``max_data`` is the
    longest data segment to send, in bytes; a session that knows its initiator has small buffers gives less.
    :attr:`params` follows what the initiator declares anew.
    """

    def __init__(
        self,
        params: NegotiatedParameters,
        targets: Callable[[str], Sequence[TargetRecord]],
        *,
        transport: Transport,
        max_data: int = LOGIN_DATA_LENGTH,
    ) -> None:
        self.params = params
        self._targets = targets
        self._transport = transport
        self._max_data = max_data
        self._inbox = TextAssembler()
        self._outbox: list[bytes] = []
        self._itt: int | None = None
        self._ttt = 0

    def receive(self, pdu: Pdu) -> Pdu:
        """The response to a Text Request.

        Raises :class:`PduError` (with its Reject reason), :class:`TextError` and :class:`NegotiationError`, all to be
        answered with a Reject; the exchange is forgotten then.
        """
        try:
            return self._answer(pdu)
        except (PduError, TextError, NegotiationError):
            self._reset()
            raise

    def _reset(self) -> None:
        self._inbox.clear()
        self._outbox = []
        self._itt = None

    def _answer(self, pdu: Pdu) -> Pdu:
        request = pdu.bhs
        if not isinstance(request, TextRequest):
            raise PduError(f"the initiator sent a {type(request).__name__} where a Text Request is due")
        if request.ttt == RESERVED_TAG:
            self._reset()
        elif request.ttt != self._ttt or request.itt != self._itt:
            raise PduError(
                "the initiator continues a text exchange that is not under way", RejectReason.INVALID_PDU_FIELD
            )
        final, more = bool(request.flags & FINAL), bool(request.flags & TEXT_CONTINUE)
        if final and more:
            raise PduError("the initiator set both F and C in a Text Request")
        if self._outbox:
            if pdu.data:
                raise PduError("the initiator sent text before it had all of ours")
            return self._next_part(request, final)
        text = self._inbox.add(pdu.data, more)
        if text is None:
            return self._respond(request, b"", 0)
        answers = self._answer_text(decode_text(text))
        self._outbox = list(split_text(encode_text(answers), self._max_part()))
        return self._next_part(request, final)

    def _max_part(self) -> int:
        return min(self._max_data, self.params.max_recv_data_segment_length_initiator)

    def _next_part(self, request: TextRequest, final: bool) -> Pdu:
        data = self._outbox.pop(0)
        if self._outbox:
            return self._respond(request, data, TEXT_CONTINUE)
        return self._respond(request, data, FINAL if final else 0)

    def _respond(self, request: TextRequest, data: bytes, flags: int) -> Pdu:
        if flags & FINAL:
            self._reset()
            ttt = RESERVED_TAG
        else:
            self._itt = request.itt
            self._ttt = ttt = sn_add(self._ttt, 1) % RESERVED_TAG
        return Pdu(TextResponse(flags=flags, lun=request.lun, itt=request.itt, ttt=ttt), data)

    def _answer_text(self, pairs: Sequence[Pair]) -> list[Pair]:
        answers: list[Pair] = []
        for name, value in pairs:
            if name == _SEND_TARGETS:
                answers.extend(self._send_targets(value))
            elif name == "MaxRecvDataSegmentLength":
                self._declare_length(value)
            elif name == "InitiatorAlias":
                self.params = replace(self.params, initiator_alias=str(KEYS[name].parse(value)))
            elif value not in RESERVED_VALUES:
                answers.append((name, REJECT if name in KEYS else NOT_UNDERSTOOD))
        return answers

    def _send_targets(self, value: str) -> list[Pair]:
        own = self.params.target_name
        if self.params.session_type == DISCOVERY:
            if not value:
                return [(_SEND_TARGETS, REJECT)]
        elif value in ("", own):
            value = own
        else:
            return [(_SEND_TARGETS, REJECT)]
        return target_pairs(self._targets(value))

    def _declare_length(self, value: str) -> None:
        key = KEYS["MaxRecvDataSegmentLength"]
        if self._transport == "iser" and self.params.session_type != DISCOVERY:
            return  # RFC 7145 section 6.2: without meaning
        length = key.parse(value)
        self.params = replace(self.params, max_recv_data_segment_length_initiator=int(length))
