"""What is wrong with a segment of the peer's, as the receiver says it: errors and the codes of their Terminate.

Sources: RFC 5041 section 8.2, RFC 5040 section 4.8.
"""

from __future__ import annotations

from typing import Final

from iser.errors import TerminateError
from iser.rdma.softiwarp.wire import CTRL_TAGGED, OP_SEND, Fault, fault

__all__ = ["WITHOUT_HEADER", "invalidated", "short", "unexpected", "unknown"]

_DDP_VERSION: Final = 0x0300
_RDMAP_VERSION: Final = 0x00C0

#: Faults whose Terminate names no header: one that cannot be parsed says nothing to the peer.
WITHOUT_HEADER: Final = frozenset(
    (
        fault.TAGGED_VERSION,
        fault.UNTAGGED_VERSION,
        fault.RDMAP_VERSION,
        fault.UNEXPECTED_OPCODE,
        fault.CRC,
        fault.BAD_FPDU,
    )
)


def short() -> TerminateError:
    """An FPDU shorter than its headers."""
    return TerminateError("the peer sent an FPDU that is shorter than its headers", *fault.BAD_FPDU)


def unknown(what: Fault, stag: int) -> TerminateError:
    """A key that names nothing; ``what`` is the fault to report."""
    return TerminateError(f"the peer used STag {stag:#010x}, which names nothing it may use", *what)


def invalidated(rkey: int) -> TerminateError:
    """A key that was given up while data for it was coming in."""
    return TerminateError(
        f"STag {rkey:#010x} was invalidated while the peer was writing to it", *fault.TAGGED_INVALID_STAG
    )


def unexpected(control: int) -> TerminateError:
    """What is wrong with a control word that is none of those we know: a version, or the opcode."""
    if control & _DDP_VERSION != OP_SEND & _DDP_VERSION:
        what = fault.TAGGED_VERSION if control & CTRL_TAGGED else fault.UNTAGGED_VERSION
        return TerminateError(f"the peer sent DDP version {control >> 8 & 3}", *what)
    if control & _RDMAP_VERSION != OP_SEND & _RDMAP_VERSION:
        return TerminateError(f"the peer sent RDMAP version {control >> 6 & 3}", *fault.RDMAP_VERSION)
    return TerminateError(
        f"the peer sent opcode {control & 0xF}, which is unknown or out of place here", *fault.UNEXPECTED_OPCODE
    )
