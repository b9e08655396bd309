"""The numbers of RFC 7143 section 11 that have names, and serial-number arithmetic.

Codes are ``IntEnum``; bits that are tested per PDU are plain integers, which cost nothing to combine.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "OPCODE_MASK",
    "Opcode",
    "FINAL",
    "COMMAND_READ",
    "COMMAND_WRITE",
    "COMMAND_ATTRIBUTE_MASK",
    "TaskAttribute",
    "RESPONSE_BIDI_OVERFLOW",
    "RESPONSE_BIDI_UNDERFLOW",
    "RESPONSE_OVERFLOW",
    "RESPONSE_UNDERFLOW",
    "ScsiResponseCode",
    "DATA_IN_ACKNOWLEDGE",
    "DATA_IN_OVERFLOW",
    "DATA_IN_UNDERFLOW",
    "DATA_IN_STATUS",
    "TASK_MANAGEMENT_FUNCTION_MASK",
    "TaskManagementFunction",
    "TaskManagementResponseCode",
    "TEXT_CONTINUE",
    "LOGIN_TRANSIT",
    "LOGIN_CONTINUE",
    "LOGIN_CSG_SHIFT",
    "LOGIN_STAGE_MASK",
    "Stage",
    "LOGOUT_REASON_MASK",
    "LogoutReason",
    "LogoutResponseCode",
    "SnackType",
    "RejectReason",
    "AsyncEvent",
    "SERIAL_MASK",
    "sn_add",
    "sn_le",
    "sn_lt",
]

OPCODE_MASK: Final = 0x3F


class Opcode(IntEnum):
    """The 6-bit opcodes, RFC 7143 section 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


FINAL: Final = 0x80  # bit F of byte 1, of every PDU but the login's

# SCSI Command, byte 1 (section 11.3.1).
COMMAND_READ: Final = 0x40
COMMAND_WRITE: Final = 0x20
COMMAND_ATTRIBUTE_MASK: Final = 0x07


class TaskAttribute(IntEnum):
    """The low bits of a SCSI Command's flags, section 11.3.1."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


# SCSI Response, byte 1 (section 11.4.1): bits o, u, O, U.
RESPONSE_BIDI_OVERFLOW: Final = 0x10
RESPONSE_BIDI_UNDERFLOW: Final = 0x08
RESPONSE_OVERFLOW: Final = 0x04
RESPONSE_UNDERFLOW: Final = 0x02


class ScsiResponseCode(IntEnum):
    """Whether the target could carry out the command at all, section 11.4.3."""

    COMPLETED = 0x00
    TARGET_FAILURE = 0x01


# Data-In, byte 1 (section 11.7): bits A, O, U, S.
DATA_IN_ACKNOWLEDGE: Final = 0x40
DATA_IN_OVERFLOW: Final = 0x04
DATA_IN_UNDERFLOW: Final = 0x02
DATA_IN_STATUS: Final = 0x01

TASK_MANAGEMENT_FUNCTION_MASK: Final = 0x7F


class TaskManagementFunction(IntEnum):
    """Section 11.5.1; those from 9 on are RFC 7144's."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class TaskManagementResponseCode(IntEnum):
    """Section 11.6.1; ``FUNCTION_SUCCEEDED`` is RFC 7144's."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGNMENT_NOT_SUPPORTED = 4
    FUNCTION_NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    FUNCTION_REJECTED = 255


TEXT_CONTINUE: Final = 0x40  # bit C of Text Request and Response (section 11.10.2); their F is FINAL

# Login Request and Response, byte 1 (section 11.12): T, C, and two stages of 2 bits, CSG above NSG.
LOGIN_TRANSIT: Final = 0x80
LOGIN_CONTINUE: Final = 0x40
LOGIN_CSG_SHIFT: Final = 2
LOGIN_STAGE_MASK: Final = 0x03


class Stage(IntEnum):
    """Login stages, section 11.12.3; 2 is reserved."""

    SECURITY = 0
    OPERATIONAL = 1
    FULL_FEATURE = 3


LOGOUT_REASON_MASK: Final = 0x7F


class LogoutReason(IntEnum):
    """Section 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_FOR_RECOVERY = 2


class LogoutResponseCode(IntEnum):
    """Section 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class SnackType(IntEnum):
    """Section 11.16.1."""

    DATA_OR_R2T = 0
    STATUS = 1
    DATA_ACK = 2
    R_DATA = 3


class RejectReason(IntEnum):
    """Section 11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    TOO_MANY_IMMEDIATE_COMMANDS = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    OUT_OF_RESOURCES = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class AsyncEvent(IntEnum):
    """Section 11.9.1."""

    SCSI_EVENT = 0
    LOGOUT_REQUESTED = 1
    CONNECTION_DROPPED = 2
    ALL_CONNECTIONS_DROPPED = 3
    NEGOTIATION_REQUESTED = 4
    TASKS_TERMINATED = 5
    VENDOR_SPECIFIC = 255


SERIAL_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def sn_lt(a: int, b: int) -> bool:
    """Whether serial number ``a`` comes before ``b`` (32 bits, RFC 1982; neither is before the other at 2**31)."""
    return 0 < (b - a & SERIAL_MASK) < _HALF


def sn_le(a: int, b: int) -> bool:
    """Whether serial number ``a`` comes before ``b`` or is the same."""
    return (b - a & SERIAL_MASK) < _HALF


def sn_add(a: int, n: int) -> int:
    """The serial number ``n`` after ``a``; ``n`` may be negative, and below 2**31 in size."""
    return a + n & SERIAL_MASK
