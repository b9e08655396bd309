"""Sense codes: the (sense key, ASC, ASCQ) triples our device server reports, and names for those of any peer."""

from __future__ import annotations

from typing import Final, NamedTuple

from iser.scsi.const import SenseKey

__all__ = [
    "ASC_NAMES",
    "BUS_DEVICE_RESET",
    "CAPACITY_CHANGED",
    "COMMANDS_CLEARED",
    "COPY_ABORTED",
    "COPY_TARGET_NOT_REACHABLE",
    "INQUIRY_CHANGED",
    "INSUFFICIENT_RESERVATION_RESOURCES",
    "INTERNAL_FAILURE",
    "INVALID_FIELD_IN_CDB",
    "INVALID_INFORMATION_UNIT",
    "INVALID_MESSAGE",
    "INVALID_OPCODE",
    "INVALID_PARAMETER",
    "INVALID_RELEASE",
    "LBA_OUT_OF_RANGE",
    "LUN_NOT_SUPPORTED",
    "MEDIUM_CHANGED",
    "MEDIUM_REMOVAL_PREVENTED",
    "MISCOMPARE",
    "MODE_CHANGED",
    "NO_MEDIUM",
    "NO_SENSE",
    "PARAMETER_LIST_LENGTH_ERROR",
    "POWER_ON",
    "READ_ERROR",
    "REGISTRATIONS_PREEMPTED",
    "REPORTED_LUNS_CHANGED",
    "RESERVATIONS_PREEMPTED",
    "RESERVATIONS_RELEASED",
    "SANITIZE_FAILED",
    "SANITIZE_IN_PROGRESS",
    "SAVING_NOT_SUPPORTED",
    "SOFTWARE_WRITE_PROTECTED",
    "SPACE_ALLOCATION_FAILED",
    "TOO_MANY_SEGMENTS",
    "TOO_MANY_TARGETS",
    "UNREACHABLE_COPY_TARGET",
    "UNSUPPORTED_SEGMENT_TYPE",
    "UNSUPPORTED_TARGET_TYPE",
    "WRITE_ERROR",
    "WRITE_PROTECTED",
    "SenseCode",
    "asc_name",
]


class SenseCode(NamedTuple):
    """A sense key with its additional sense code and qualifier, one byte each."""

    key: SenseKey
    asc: int
    ascq: int


NO_SENSE: Final = SenseCode(SenseKey.NO_SENSE, 0x00, 0x00)
WRITE_ERROR: Final = SenseCode(SenseKey.MEDIUM_ERROR, 0x0C, 0x00)
READ_ERROR: Final = SenseCode(SenseKey.MEDIUM_ERROR, 0x11, 0x00)
INTERNAL_FAILURE: Final = SenseCode(SenseKey.HARDWARE_ERROR, 0x44, 0x00)
INVALID_OPCODE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x24, 0x00)
LUN_NOT_SUPPORTED: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x25, 0x00)
SAVING_NOT_SUPPORTED: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x39, 0x00)
POWER_ON: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x29, 0x00)
BUS_DEVICE_RESET: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x29, 0x03)
COMMANDS_CLEARED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2F, 0x00)
WRITE_PROTECTED: Final = SenseCode(SenseKey.DATA_PROTECT, 0x27, 0x00)
MISCOMPARE: Final = SenseCode(SenseKey.MISCOMPARE, 0x1D, 0x00)
SANITIZE_IN_PROGRESS: Final = SenseCode(SenseKey.NOT_READY, 0x04, 0x1B)
UNREACHABLE_COPY_TARGET: Final = SenseCode(SenseKey.COPY_ABORTED, 0x08, 0x04)
COPY_TARGET_NOT_REACHABLE: Final = SenseCode(SenseKey.COPY_ABORTED, 0x0D, 0x02)
INVALID_INFORMATION_UNIT: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x0E, 0x03)
PARAMETER_LIST_LENGTH_ERROR: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_PARAMETER: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x04)
TOO_MANY_TARGETS: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x06)
UNSUPPORTED_TARGET_TYPE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x07)
TOO_MANY_SEGMENTS: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x08)
UNSUPPORTED_SEGMENT_TYPE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x26, 0x09)
SOFTWARE_WRITE_PROTECTED: Final = SenseCode(SenseKey.DATA_PROTECT, 0x27, 0x02)
SPACE_ALLOCATION_FAILED: Final = SenseCode(SenseKey.DATA_PROTECT, 0x27, 0x07)
MEDIUM_CHANGED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x28, 0x00)
MODE_CHANGED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2A, 0x01)
RESERVATIONS_PREEMPTED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2A, 0x03)
RESERVATIONS_RELEASED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2A, 0x05)
CAPACITY_CHANGED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x2A, 0x09)
INQUIRY_CHANGED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x3F, 0x03)
REPORTED_LUNS_CHANGED: Final = SenseCode(SenseKey.UNIT_ATTENTION, 0x3F, 0x0E)
SANITIZE_FAILED: Final = SenseCode(SenseKey.MEDIUM_ERROR, 0x31, 0x03)
COPY_ABORTED: Final = SenseCode(SenseKey.COPY_ABORTED, 0x00, 0x00)
INVALID_MESSAGE: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x49, 0x00)
NO_MEDIUM: Final = SenseCode(SenseKey.NOT_READY, 0x3A, 0x00)
MEDIUM_REMOVAL_PREVENTED: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x53, 0x02)
INSUFFICIENT_RESERVATION_RESOURCES: Final = SenseCode(SenseKey.ILLEGAL_REQUEST, 0x55, 0x02)

#: What the common ASC/ASCQ pairs mean, in our words (assignments: SPC-4 annex F).
ASC_NAMES: Final[dict[tuple[int, int], str]] = {
    (0x00, 0x00): "no additional sense information",
    (0x04, 0x00): "not ready, cause not reportable",
    (0x04, 0x01): "becoming ready",
    (0x04, 0x02): "a START UNIT command is needed",
    (0x04, 0x03): "manual intervention is needed",
    (0x04, 0x0A): "asymmetric access state is changing",
    (0x04, 0x0B): "target port is in standby state",
    (0x04, 0x0C): "target port is in unavailable state",
    (0x04, 0x1B): "sanitize is in progress",
    (0x08, 0x00): "communication with the unit failed",
    (0x08, 0x01): "communication with the unit timed out",
    (0x08, 0x04): "copy target is unreachable",
    (0x0C, 0x00): "write error",
    (0x0C, 0x02): "write error, reallocation failed",
    (0x0D, 0x00): "error at the third-party temporary initiator",
    (0x0D, 0x02): "copy target device cannot be reached",
    (0x0E, 0x03): "invalid field in the command information unit",
    (0x10, 0x01): "logical block guard check failed",
    (0x10, 0x02): "logical block application tag check failed",
    (0x10, 0x03): "logical block reference tag check failed",
    (0x11, 0x00): "unrecovered read error",
    (0x14, 0x01): "record not found",
    (0x1A, 0x00): "parameter list length error",
    (0x1D, 0x00): "miscompare during verify",
    (0x20, 0x00): "invalid operation code",
    (0x21, 0x00): "logical block address out of range",
    (0x24, 0x00): "invalid field in the CDB",
    (0x25, 0x00): "logical unit not supported",
    (0x26, 0x00): "invalid field in the parameter list",
    (0x26, 0x04): "invalid release of a persistent reservation",
    (0x26, 0x06): "too many target descriptors",
    (0x26, 0x07): "unsupported target descriptor type",
    (0x26, 0x08): "too many segment descriptors",
    (0x26, 0x09): "unsupported segment descriptor type",
    (0x27, 0x00): "write protected",
    (0x27, 0x02): "write protected by software",
    (0x27, 0x07): "space allocation failed",
    (0x28, 0x00): "medium may have changed",
    (0x29, 0x00): "power on, reset or bus device reset occurred",
    (0x29, 0x01): "power on occurred",
    (0x29, 0x02): "bus reset occurred",
    (0x29, 0x03): "bus device reset occurred",
    (0x29, 0x04): "internal reset of the device",
    (0x29, 0x07): "nexus loss occurred",
    (0x2A, 0x01): "mode parameters changed",
    (0x2A, 0x03): "reservations preempted",
    (0x2A, 0x04): "reservations released",
    (0x2A, 0x05): "registrations preempted",
    (0x2A, 0x06): "asymmetric access state changed",
    (0x2A, 0x09): "capacity changed",
    (0x2C, 0x00): "command sequence error",
    (0x2F, 0x00): "commands cleared by another initiator",
    (0x30, 0x00): "incompatible medium",
    (0x31, 0x00): "medium format corrupted",
    (0x31, 0x03): "sanitize failed",
    (0x38, 0x07): "thin provisioning soft threshold reached",
    (0x39, 0x00): "saving parameters is not supported",
    (0x3A, 0x00): "no medium",
    (0x3E, 0x02): "timeout on the logical unit",
    (0x3F, 0x01): "microcode changed",
    (0x3F, 0x03): "INQUIRY data changed",
    (0x3F, 0x0E): "reported LUNs changed",
    (0x44, 0x00): "internal target failure",
    (0x47, 0x01): "data phase CRC error",
    (0x47, 0x7F): "some commands cleared by an iSCSI protocol event",
    (0x49, 0x00): "invalid message",
    (0x4B, 0x00): "data phase error",
    (0x4E, 0x00): "overlapped commands attempted",
    (0x53, 0x02): "medium removal prevented",
    (0x55, 0x02): "insufficient reservation resources",
    (0x55, 0x03): "insufficient resources",
    (0x5D, 0x00): "failure prediction threshold exceeded",
    (0x74, 0x71): "access denied to the logical unit",
}


def asc_name(asc: int, ascq: int) -> str:
    """Words for an additional sense code and qualifier; the numbers alone where it is not in the table."""
    return ASC_NAMES.get((asc, ascq)) or f"additional sense {asc:02x}/{ascq:02x}"
