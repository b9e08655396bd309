"""An I_T nexus as the device server sees it: an identity and the unit attentions that wait for it (SAM-5 5.14)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from iser.scsi.codes import BUS_DEVICE_RESET, POWER_ON, SenseCode

if TYPE_CHECKING:
    from target.scsi.unit import LogicalUnit

__all__ = ["Nexus", "nexus_id", "split_id"]

#: A reset tells all that those conditions said which it finds waiting.
_RESETS = (POWER_ON, BUS_DEVICE_RESET)


_TARGET_PORT = ",t,0x"


def nexus_id(initiator: str, port: int) -> str:
    """What tells I_T nexuses of one target apart: the name of the initiator port, and the tag of the portal group.

    The form of the latter is that of a target port's name (RFC 7143 section 4.4.3).
    """
    return f"{initiator}{_TARGET_PORT}{port:04x}"


def split_id(identity: str) -> tuple[str, int]:
    """The initiator port and the target port of a :func:`nexus_id`.  Raises ValueError for what is none."""
    initiator, _, port = identity.rpartition(_TARGET_PORT)
    return initiator, int(port, 16)


class Nexus:
    """One initiator port on one target port; ``pending`` maps a logical unit to its unit attentions, oldest first.

    ``initiator`` is the name of the initiator port, ``port`` the relative target port identifier, which is the tag of
    the portal group: to iSCSI, a portal group is what SCSI calls a target port.  ``id`` outlives the session.

    A unit without any has no entry, so that the test in the I/O path is ``if nexus.pending``.  A condition waits at
    most once, which bounds the memory.
    """

    __slots__ = ("id", "initiator", "pending", "port")

    def __init__(self, initiator: str, units: Iterable[LogicalUnit] = (), port: int = 1) -> None:
        self.initiator = initiator
        self.port = port
        self.id = nexus_id(initiator, port)
        self.pending: dict[LogicalUnit, list[SenseCode]] = {unit: [POWER_ON] for unit in units}

    def raise_attention(self, unit: LogicalUnit, code: SenseCode) -> None:
        """Let ``code`` wait for the next command to ``unit``."""
        waiting = self.pending.setdefault(unit, [])
        if code in _RESETS:
            waiting.clear()
        if code not in waiting:
            waiting.append(code)

    def withdraw(self, code: SenseCode) -> None:
        """Let ``code`` wait on no unit any more: the initiator has learned of it otherwise."""
        for unit, waiting in list(self.pending.items()):
            if code in waiting:
                waiting.remove(code)
            if not waiting:
                del self.pending[unit]

    def take_attention(self, unit: LogicalUnit) -> SenseCode | None:
        """The oldest condition that waits on ``unit``, which is reported from here on."""
        waiting = self.pending.get(unit)
        if not waiting:
            return None
        code = waiting.pop(0)
        if not waiting:
            del self.pending[unit]
        return code
