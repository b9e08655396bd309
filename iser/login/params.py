"""What one side wishes for a connection, and what both agreed on.  Field names are the keys' names in snake_case."""

from __future__ import annotations

from dataclasses import dataclass, fields

from iser.errors import NegotiationError, UsageError
from iser.login.keys import KEYS, Key, Kind, Value, format_value

__all__ = ["LOGIN_DATA_LENGTH", "NegotiatedParameters", "Wishes"]

LOGIN_DATA_LENGTH = 8192  # bytes: the data segment of a login PDU, and the default of every receive length


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiatedParameters:
    """The outcome of a login; the defaults are those of RFC 7143 section 13 and RFC 7145 section 6.

    Lengths are in bytes, times in seconds.  ``max_recv_data_segment_length_*`` are what each side declared (plain TCP
    and discovery); ``*_recv_data_segment_length`` count with ``rdma_extensions``.  ``max_outstanding_unexpected_pdus``
    and ``max_ahs_length`` are what the *peer* declared, our limit when sending; 0 is no limit.
    ``first_burst_length`` is never above ``max_burst_length``.  ``tagged_buffer_for_solicited_data_only`` is None
    unless the initiator declared it: RFC 7145's default is No, but what is deployed means Yes and says nothing.
    """

    session_type: str = "Normal"
    initiator_name: str = ""
    initiator_alias: str = ""
    target_name: str = ""
    target_alias: str = ""
    target_portal_group_tag: int = 0
    header_digest: str = "None"
    data_digest: str = "None"
    max_connections: int = 1
    initial_r2t: bool = True
    immediate_data: bool = True
    max_recv_data_segment_length_initiator: int = LOGIN_DATA_LENGTH
    max_recv_data_segment_length_target: int = LOGIN_DATA_LENGTH
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    default_time2wait: int = 2
    default_time2retain: int = 20
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    task_reporting: str = "RFC3720"
    iscsi_protocol_level: int = 1
    rdma_extensions: bool = False
    initiator_recv_data_segment_length: int = LOGIN_DATA_LENGTH
    target_recv_data_segment_length: int = LOGIN_DATA_LENGTH
    max_outstanding_unexpected_pdus: int = 0
    max_ahs_length: int = 256
    tagged_buffer_for_solicited_data_only: bool | None = None
    iser_hello_required: bool = False

    @property
    def to_initiator_length(self) -> int:
        """Bytes of data segment in a control PDU to the initiator, over either transport."""
        if self.rdma_extensions:
            return self.initiator_recv_data_segment_length
        return self.max_recv_data_segment_length_initiator

    @property
    def to_target_length(self) -> int:
        """Bytes of data segment in a PDU to the target, over either transport."""
        if self.rdma_extensions:
            return self.target_recv_data_segment_length
        return self.max_recv_data_segment_length_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What one side asks for, and accepts at most; None is a key that it never offers or declares.

    A key wished for as None is still answered when the peer offers it, with its default for a wish.  Over iSER the
    digests stay None and RDMAExtensions is decided by the transport, not here.  Raises :class:`UsageError` for a value
    that its key cannot have.
    """

    header_digest: tuple[str, ...] = ("None",)
    data_digest: tuple[str, ...] = ("None",)
    max_connections: int | None = 1
    initial_r2t: bool | None = True
    immediate_data: bool | None = True
    max_recv_data_segment_length: int | None = LOGIN_DATA_LENGTH
    max_burst_length: int | None = 262144
    first_burst_length: int | None = 65536
    default_time2wait: int | None = 2
    default_time2retain: int | None = 0  # nothing to retain: error recovery level 0 never reassigns a task
    max_outstanding_r2t: int | None = 1
    data_pdu_in_order: bool | None = True
    data_sequence_in_order: bool | None = True
    error_recovery_level: int | None = 0
    task_reporting: tuple[str, ...] | None = None
    iscsi_protocol_level: int | None = None
    initiator_recv_data_segment_length: int | None = LOGIN_DATA_LENGTH
    target_recv_data_segment_length: int | None = LOGIN_DATA_LENGTH  # not more: LIO agrees to more than it can receive
    max_outstanding_unexpected_pdus: int | None = None
    max_ahs_length: int | None = None
    tagged_buffer_for_solicited_data_only: bool | None = None
    iser_hello_required: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Value | tuple[str, ...] | None = getattr(self, field.name)
            if value is not None:
                _check_wish(WISH_KEYS[field.name], value)
        first, longest = self.first_burst_length, self.max_burst_length
        if first is not None and longest is not None and first > longest:
            raise UsageError(f"first_burst_length {first} is above max_burst_length {longest}; lower it")

    def get(self, field: str) -> Value | tuple[str, ...] | None:
        """The wish in ``field``."""
        value: Value | tuple[str, ...] | None = getattr(self, field)
        return value


WISH_KEYS = {key.field: key for key in KEYS.values() if key.field in {field.name for field in fields(Wishes)}}


def _check_wish(key: Key, value: Value | tuple[str, ...]) -> None:
    if isinstance(value, tuple):
        if key.kind is not Kind.LIST or not value or not set(value) <= set(key.values):
            raise UsageError(f"{key.field}: {value!r} is not a choice of {', '.join(key.values)}")
        return
    try:
        key.parse(format_value(value))
    except NegotiationError as error:
        raise UsageError(f"{key.field}: {error}; choose another value") from None
