"""An I_T nexus as the device server sees it: an identity and the unit attentions that wait for it (SAM-5 5.14)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from iser.scsi.codes import BUS_DEVICE_RESET, POWER_ON, SenseCode

if TYPE_CHECKING:
    from target.scsi.unit import LogicalUnit

__all__ = ["Nexus"]

#: A reset tells all that those conditions said which it finds waiting.
_RESETS = (POWER_ON, BUS_DEVICE_RESET)


class Nexus:
    """One initiator port on one target; ``pending`` maps a logical unit to its waiting unit attentions, oldest first.

    A unit without any has no entry, so that the test in the I/O path is ``if nexus.pending``.  A condition waits at
    most once, which bounds the memory.
    """

    __slots__ = ("id", "pending")

    def __init__(self, name: str, units: Iterable[LogicalUnit] = ()) -> None:
        self.id = name
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
