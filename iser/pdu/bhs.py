"""Every basic header segment of RFC 7143 section 11, each declared once.

A BHS is a ``NamedTuple`` whose fields carry their place on the wire, as ``Annotated[int, At(offset, subcon)]`` with a
*construct* subcon.  From that one declaration :mod:`iser.pdu.layout` derives the construct ``Struct`` (the clear form)
and the ``struct``-based functions (the fast form).  Bytes that no field covers are reserved: sent as zero, ignored on
receipt.  Integers are unsigned and big-endian.  ``opcode`` is all of byte 0: the 6-bit opcode and, on requests, the
immediate bit 0x40.  The lengths of the AHS (4-byte words) and the data segment (bytes, without padding) are filled in
by :func:`iser.pdu.codec.encode`.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int24ub, Int32ub, Int64ub

from iser.pdu.layout import At

__all__ = [
    "BHS_LENGTH",
    "BHS_TYPES",
    "IMMEDIATE",
    "RESERVED_TAG",
    "AsyncMessage",
    "Bhs",
    "DataIn",
    "DataOut",
    "LoginRequest",
    "LoginResponse",
    "LogoutRequest",
    "LogoutResponse",
    "NopIn",
    "NopOut",
    "R2T",
    "Reject",
    "ScsiCommand",
    "ScsiResponse",
    "SnackRequest",
    "TaskManagementRequest",
    "TaskManagementResponse",
    "TextRequest",
    "TextResponse",
]

BHS_LENGTH: Final = 48
IMMEDIATE: Final = 0x40
RESERVED_TAG: Final = 0xFFFFFFFF  # an ITT or TTT that names nothing

# The places that every BHS, every request and every response shares.
Opcode = Annotated[int, At(0, Int8ub)]
Flags = Annotated[int, At(1, Int8ub)]
TotalAhsLength = Annotated[int, At(4, Int8ub)]
DataSegmentLength = Annotated[int, At(5, Int24ub)]
Lun = Annotated[int, At(8, Int64ub)]
Itt = Annotated[int, At(16, Int32ub)]
Ttt = Annotated[int, At(20, Int32ub)]
CmdSN = Annotated[int, At(24, Int32ub)]
ExpStatSN = Annotated[int, At(28, Int32ub)]
StatSN = Annotated[int, At(24, Int32ub)]
ExpCmdSN = Annotated[int, At(28, Int32ub)]
MaxCmdSN = Annotated[int, At(32, Int32ub)]


class NopOut(NamedTuple):
    """NOP-Out, RFC 7143 section 11.18."""

    opcode: Opcode = 0x00
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0


class ScsiCommand(NamedTuple):
    """SCSI Command, RFC 7143 section 11.3.  ``edtl`` in bytes; ``cdb`` the first 16 bytes, zero-padded."""

    opcode: Opcode = 0x01
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    edtl: Annotated[int, At(20, Int32ub)] = 0
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0
    cdb: Annotated[bytes, At(32, Bytes(16))] = bytes(16)


class TaskManagementRequest(NamedTuple):
    """Task Management Function Request, RFC 7143 section 11.5.  ``flags`` is 0x80 + function."""

    opcode: Opcode = 0x02
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    referenced_task_tag: Annotated[int, At(20, Int32ub)] = RESERVED_TAG
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0
    ref_cmd_sn: Annotated[int, At(32, Int32ub)] = 0
    exp_data_sn: Annotated[int, At(36, Int32ub)] = 0


class LoginRequest(NamedTuple):
    """Login Request, RFC 7143 section 11.12.  ``isid`` is 6 bytes."""

    opcode: Opcode = 0x03 | IMMEDIATE
    flags: Flags = 0
    version_max: Annotated[int, At(2, Int8ub)] = 0
    version_min: Annotated[int, At(3, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    isid: Annotated[bytes, At(8, Bytes(6))] = bytes(6)
    tsih: Annotated[int, At(14, Int16ub)] = 0
    itt: Itt = 0
    cid: Annotated[int, At(20, Int16ub)] = 0
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0


class TextRequest(NamedTuple):
    """Text Request, RFC 7143 section 11.10."""

    opcode: Opcode = 0x04
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = 0
    ttt: Ttt = RESERVED_TAG
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0


class DataOut(NamedTuple):
    """SCSI Data-Out, RFC 7143 section 11.7.  ``buffer_offset`` in bytes."""

    opcode: Opcode = 0x05
    flags: Flags = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    exp_stat_sn: ExpStatSN = 0
    data_sn: Annotated[int, At(36, Int32ub)] = 0
    buffer_offset: Annotated[int, At(40, Int32ub)] = 0


class LogoutRequest(NamedTuple):
    """Logout Request, RFC 7143 section 11.14.  ``flags`` is 0x80 + reason."""

    opcode: Opcode = 0x06 | IMMEDIATE
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    itt: Itt = 0
    cid: Annotated[int, At(20, Int16ub)] = 0
    cmd_sn: CmdSN = 0
    exp_stat_sn: ExpStatSN = 0


class SnackRequest(NamedTuple):
    """SNACK Request, RFC 7143 section 11.16.  ``flags`` is 0x80 + type."""

    opcode: Opcode = 0x10
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    exp_stat_sn: ExpStatSN = 0
    beg_run: Annotated[int, At(40, Int32ub)] = 0
    run_length: Annotated[int, At(44, Int32ub)] = 0


class NopIn(NamedTuple):
    """NOP-In, RFC 7143 section 11.19."""

    opcode: Opcode = 0x20
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0


class ScsiResponse(NamedTuple):
    """SCSI Response, RFC 7143 section 11.4.  The data segment is a 2-byte sense length and the sense."""

    opcode: Opcode = 0x21
    flags: Flags = 0x80
    response: Annotated[int, At(2, Int8ub)] = 0
    status: Annotated[int, At(3, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    itt: Itt = 0
    snack_tag: Annotated[int, At(20, Int32ub)] = 0
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    exp_data_sn: Annotated[int, At(36, Int32ub)] = 0
    bidi_residual: Annotated[int, At(40, Int32ub)] = 0
    residual: Annotated[int, At(44, Int32ub)] = 0


class TaskManagementResponse(NamedTuple):
    """Task Management Function Response, RFC 7143 section 11.6."""

    opcode: Opcode = 0x22
    flags: Flags = 0x80
    response: Annotated[int, At(2, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    itt: Itt = 0
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0


class LoginResponse(NamedTuple):
    """Login Response, RFC 7143 section 11.13."""

    opcode: Opcode = 0x23
    flags: Flags = 0
    version_max: Annotated[int, At(2, Int8ub)] = 0
    version_active: Annotated[int, At(3, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    isid: Annotated[bytes, At(8, Bytes(6))] = bytes(6)
    tsih: Annotated[int, At(14, Int16ub)] = 0
    itt: Itt = 0
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    status_class: Annotated[int, At(36, Int8ub)] = 0
    status_detail: Annotated[int, At(37, Int8ub)] = 0


class TextResponse(NamedTuple):
    """Text Response, RFC 7143 section 11.11."""

    opcode: Opcode = 0x24
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = 0
    ttt: Ttt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0


class DataIn(NamedTuple):
    """SCSI Data-In, RFC 7143 section 11.7.  Status fields count only with the S flag (0x01)."""

    opcode: Opcode = 0x25
    flags: Flags = 0
    status: Annotated[int, At(3, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    data_sn: Annotated[int, At(36, Int32ub)] = 0
    buffer_offset: Annotated[int, At(40, Int32ub)] = 0
    residual: Annotated[int, At(44, Int32ub)] = 0


class LogoutResponse(NamedTuple):
    """Logout Response, RFC 7143 section 11.15.  Times in seconds."""

    opcode: Opcode = 0x26
    flags: Flags = 0x80
    response: Annotated[int, At(2, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    itt: Itt = 0
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    time2wait: Annotated[int, At(40, Int16ub)] = 0
    time2retain: Annotated[int, At(42, Int16ub)] = 0


class R2T(NamedTuple):
    """Ready To Transfer, RFC 7143 section 11.8.  Lengths and offsets in bytes."""

    opcode: Opcode = 0x31
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    ttt: Ttt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    r2t_sn: Annotated[int, At(36, Int32ub)] = 0
    buffer_offset: Annotated[int, At(40, Int32ub)] = 0
    desired_data_transfer_length: Annotated[int, At(44, Int32ub)] = 0


class AsyncMessage(NamedTuple):
    """Asynchronous Message, RFC 7143 section 11.9."""

    opcode: Opcode = 0x32
    flags: Flags = 0x80
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    lun: Lun = 0
    itt: Itt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    async_event: Annotated[int, At(36, Int8ub)] = 0
    async_vcode: Annotated[int, At(37, Int8ub)] = 0
    parameter1: Annotated[int, At(38, Int16ub)] = 0
    parameter2: Annotated[int, At(40, Int16ub)] = 0
    parameter3: Annotated[int, At(42, Int16ub)] = 0


class Reject(NamedTuple):
    """Reject, RFC 7143 section 11.17.  The data segment is the rejected BHS."""

    opcode: Opcode = 0x3F
    flags: Flags = 0x80
    reason: Annotated[int, At(2, Int8ub)] = 0
    total_ahs_length: TotalAhsLength = 0
    data_segment_length: DataSegmentLength = 0
    itt: Itt = RESERVED_TAG
    stat_sn: StatSN = 0
    exp_cmd_sn: ExpCmdSN = 0
    max_cmd_sn: MaxCmdSN = 0
    data_sn: Annotated[int, At(36, Int32ub)] = 0


Bhs = (
    NopOut
    | ScsiCommand
    | TaskManagementRequest
    | LoginRequest
    | TextRequest
    | DataOut
    | LogoutRequest
    | SnackRequest
    | NopIn
    | ScsiResponse
    | TaskManagementResponse
    | LoginResponse
    | TextResponse
    | DataIn
    | LogoutResponse
    | R2T
    | AsyncMessage
    | Reject
)

# By 6-bit opcode.
BHS_TYPES: Final[dict[int, type[Bhs]]] = {
    0x00: NopOut,
    0x01: ScsiCommand,
    0x02: TaskManagementRequest,
    0x03: LoginRequest,
    0x04: TextRequest,
    0x05: DataOut,
    0x06: LogoutRequest,
    0x10: SnackRequest,
    0x20: NopIn,
    0x21: ScsiResponse,
    0x22: TaskManagementResponse,
    0x23: LoginResponse,
    0x24: TextResponse,
    0x25: DataIn,
    0x26: LogoutResponse,
    0x31: R2T,
    0x32: AsyncMessage,
    0x3F: Reject,
}
