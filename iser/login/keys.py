"""The one table of text keys: RFC 7143 section 13 and RFC 7145 section 6.

Each row tells a key's kind (and so its result function), default, legal values, where and by whom it may be sent.
:mod:`iser.login.negotiate` is the code that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Final, Literal

from iser.errors import NegotiationError, TextError
from iser.login.text import MAX_LARGE_VALUE_LENGTH, MAX_VALUE_LENGTH, NONE, REJECT, decode_number

__all__ = ["KEYS", "NO", "YES", "Key", "Kind", "Phase", "Role", "Scope", "Transport", "Value", "format_value"]

YES: Final = "Yes"
NO: Final = "No"
Transport = Literal["iser", "tcp"]
Value = bool | int | str


class Kind(Enum):
    """How a key's value comes about."""

    TEXT = auto()  # declared, no answer
    NUMBER = auto()  # declared, no answer
    BOOLEAN = auto()  # declared, no answer
    AND = auto()  # Yes if both say Yes
    OR = auto()  # Yes if either says Yes
    MINIMUM = auto()
    MAXIMUM = auto()
    LIST = auto()  # the first of the proposer's that the acceptor supports
    OBSOLETE = auto()  # RFC 7143 section 13.25: answered with the default, never offered


_DECLARED: Final = frozenset({Kind.TEXT, Kind.NUMBER, Kind.BOOLEAN})


class Phase(Flag):
    """Where a key may be sent."""

    SECURITY = auto()
    OPERATIONAL = auto()
    FULL_FEATURE = auto()


class Role(Flag):
    """A side, or the sides that may send a key."""

    INITIATOR = auto()
    TARGET = auto()


class Scope(Enum):
    """What a key's value holds for."""

    SESSION = auto()
    CONNECTION = auto()


_LOGIN: Final = Phase.SECURITY | Phase.OPERATIONAL
_OPERATIONAL: Final = Phase.OPERATIONAL
_ALL: Final = _LOGIN | Phase.FULL_FEATURE
_BOTH: Final = Role.INITIATOR | Role.TARGET
_MAX24: Final = 2**24 - 1
_MAX32: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One row.  ``low`` and ``high`` bound a number, ``or_zero`` allows 0 besides; ``values`` are a list's or text's.

    ``field`` is its place in ``NegotiatedParameters`` and in ``Wishes``, "" for a key that has none there.
    ``by_sender``: each side declares its own, in the fields ``<field>_initiator`` and ``<field>_target``.
    ``leading``: only on the first connection of a session.  ``rdma``: has a meaning only with RDMAExtensions=Yes.
    ``discovery``: has a meaning in a discovery session.
    """

    name: str
    kind: Kind
    default: str = ""
    field: str = ""
    low: int = 0
    high: int = 0
    or_zero: bool = False
    values: tuple[str, ...] = ()
    max_length: int = MAX_VALUE_LENGTH
    phases: Phase = _OPERATIONAL
    senders: Role = _BOTH
    scope: Scope = Scope.SESSION
    leading: bool = False
    rdma: bool = False
    discovery: bool = False
    by_sender: bool = False

    @property
    def declared(self) -> bool:
        """Whether the key is a declaration, which wants no answer."""
        return self.kind in _DECLARED

    def parse(self, text: str) -> Value:
        """The value that ``text`` stands for; a list stays text.  :class:`NegotiationError` if it is not legal."""
        if len(text.encode()) > self.max_length:
            raise NegotiationError(self.name, f"the value is longer than {self.max_length} bytes")
        if self.kind in _BOOLEANS:
            if text not in (YES, NO):
                raise NegotiationError(self.name, f"{text!r} is neither Yes nor No")
            return text == YES
        if self.kind in _NUMBERS:
            return self._parse_number(text)
        if self.kind is Kind.TEXT and self.values and text not in self.values:
            raise NegotiationError(self.name, f"{text!r} is not one of {', '.join(self.values)}")
        return text

    def _parse_number(self, text: str) -> int:
        try:
            number = decode_number(text)
        except TextError as error:
            raise NegotiationError(self.name, str(error)) from None
        if not (self.low <= number <= self.high or (self.or_zero and number == 0)):
            raise NegotiationError(self.name, f"{number} is not within {self.low} to {self.high}")
        return number


_BOOLEANS: Final = frozenset({Kind.BOOLEAN, Kind.AND, Kind.OR})
_NUMBERS: Final = frozenset({Kind.NUMBER, Kind.MINIMUM, Kind.MAXIMUM})


def format_value(value: Value | tuple[str, ...]) -> str:
    """The text of a value, or of the list of values that is offered."""
    if isinstance(value, bool):
        return YES if value else NO
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _declared(name: str, field: str, senders: Role, phases: Phase = _LOGIN) -> Key:
    return Key(name=name, kind=Kind.TEXT, field=field, senders=senders, phases=phases, discovery=True)


def _session(name: str, kind: Kind, default: str, field: str, low: int = 0, high: int = 0) -> Key:
    """A negotiated key of normal sessions, leading connection only: most of section 13."""
    return Key(name=name, kind=kind, default=default, field=field, low=low, high=high, leading=True)


def _digest(name: str, field: str) -> Key:
    return Key(
        name=name,
        kind=Kind.LIST,
        default=NONE,
        field=field,
        values=(NONE, "CRC32C"),
        max_length=MAX_LARGE_VALUE_LENGTH,
        scope=Scope.CONNECTION,
        discovery=True,
    )


def _rdma_length(name: str, field: str) -> Key:
    return Key(
        name=name,
        kind=Kind.MINIMUM,
        default="8192",
        field=field,
        low=512,
        high=_MAX24,
        scope=Scope.CONNECTION,
        rdma=True,
    )


def _rdma_declaration(name: str, field: str, low: int, default: str) -> Key:
    return Key(
        name=name,
        kind=Kind.NUMBER,
        default=default,
        field=field,
        low=low,
        high=_MAX32,
        or_zero=True,
        leading=True,
        rdma=True,
    )


def _rdma_choice(name: str, field: str) -> Key:
    return Key(name=name, kind=Kind.BOOLEAN, default=NO, field=field, senders=Role.INITIATOR, leading=True, rdma=True)


def _obsolete(name: str, answer: str) -> Key:
    return Key(name=name, kind=Kind.OBSOLETE, default=answer, max_length=MAX_LARGE_VALUE_LENGTH, discovery=True)


_TABLE: Final = (
    # RFC 7143 section 13, by number; 12.1 for AuthMethod.
    Key(
        name="AuthMethod",
        kind=Kind.LIST,
        default=NONE,
        max_length=MAX_LARGE_VALUE_LENGTH,
        phases=Phase.SECURITY,
        scope=Scope.CONNECTION,
        discovery=True,
    ),
    _digest("HeaderDigest", "header_digest"),
    _digest("DataDigest", "data_digest"),
    _session("MaxConnections", Kind.MINIMUM, "1", "max_connections", 1, 65535),
    _declared("SendTargets", "", Role.INITIATOR, phases=Phase.FULL_FEATURE),
    _declared("TargetName", "target_name", Role.INITIATOR),  # a target names itself only in a SendTargets answer
    _declared("InitiatorName", "initiator_name", Role.INITIATOR),
    _declared("TargetAlias", "target_alias", Role.TARGET, phases=_ALL),
    _declared("InitiatorAlias", "initiator_alias", Role.INITIATOR, phases=_ALL),
    _declared("TargetAddress", "", Role.TARGET, phases=_ALL),
    Key(
        name="TargetPortalGroupTag",
        kind=Kind.NUMBER,
        default="0",
        field="target_portal_group_tag",
        high=65535,
        phases=_LOGIN,
        senders=Role.TARGET,
        discovery=True,
    ),
    _session("InitialR2T", Kind.OR, YES, "initial_r2t"),
    _session("ImmediateData", Kind.AND, YES, "immediate_data"),
    Key(
        name="MaxRecvDataSegmentLength",
        kind=Kind.NUMBER,
        default="8192",
        field="max_recv_data_segment_length",
        low=512,
        high=_MAX24,
        phases=_OPERATIONAL | Phase.FULL_FEATURE,
        scope=Scope.CONNECTION,
        discovery=True,
        by_sender=True,
    ),
    _session("MaxBurstLength", Kind.MINIMUM, "262144", "max_burst_length", 512, _MAX24),
    _session("FirstBurstLength", Kind.MINIMUM, "65536", "first_burst_length", 512, _MAX24),
    Key(
        name="DefaultTime2Wait",
        kind=Kind.MAXIMUM,
        default="2",
        field="default_time2wait",
        high=3600,
        leading=True,
        discovery=True,
    ),
    Key(
        name="DefaultTime2Retain",
        kind=Kind.MINIMUM,
        default="20",
        field="default_time2retain",
        high=3600,
        leading=True,
        discovery=True,
    ),
    _session("MaxOutstandingR2T", Kind.MINIMUM, "1", "max_outstanding_r2t", 1, 65535),
    _session("DataPDUInOrder", Kind.OR, YES, "data_pdu_in_order"),
    _session("DataSequenceInOrder", Kind.OR, YES, "data_sequence_in_order"),
    Key(
        name="ErrorRecoveryLevel",
        kind=Kind.MINIMUM,
        default="0",
        field="error_recovery_level",
        high=2,
        leading=True,
        discovery=True,
    ),
    Key(
        name="SessionType",
        kind=Kind.TEXT,
        default="Normal",
        field="session_type",
        values=("Normal", "Discovery"),
        phases=_LOGIN,
        senders=Role.INITIATOR,
        leading=True,
        discovery=True,
    ),
    Key(
        name="TaskReporting",
        kind=Kind.LIST,
        default="RFC3720",
        field="task_reporting",
        values=("RFC3720", "ResponseFence", "FastAbort"),
        max_length=MAX_LARGE_VALUE_LENGTH,
        leading=True,
    ),
    _session("iSCSIProtocolLevel", Kind.MINIMUM, "1", "iscsi_protocol_level", 0, 31),
    _obsolete("IFMarker", NO),
    _obsolete("OFMarker", NO),
    _obsolete("IFMarkInt", REJECT),
    _obsolete("OFMarkInt", REJECT),
    # RFC 7145 section 6.
    _session("RDMAExtensions", Kind.AND, NO, "rdma_extensions"),
    _rdma_length("TargetRecvDataSegmentLength", "target_recv_data_segment_length"),
    _rdma_length("InitiatorRecvDataSegmentLength", "initiator_recv_data_segment_length"),
    _rdma_declaration("MaxOutstandingUnexpectedPDUs", "max_outstanding_unexpected_pdus", 2, "0"),
    _rdma_declaration("MaxAHSLength", "max_ahs_length", 2, "256"),
    _rdma_choice("TaggedBufferForSolicitedDataOnly", "tagged_buffer_for_solicited_data_only"),
    _rdma_choice("iSERHelloRequired", "iser_hello_required"),
)

KEYS: Final[dict[str, Key]] = {key.name: key for key in _TABLE}
