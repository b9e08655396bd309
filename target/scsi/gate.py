"""What a logical unit in a special state lets pass: reserved, ejected, or being sanitized.

A unit in none of these states does not come here: :attr:`LogicalUnit.gated` is False.
"""

from __future__ import annotations

from typing import Final

from iser.scsi.codes import NO_MEDIUM, SANITIZE_FAILED, SANITIZE_IN_PROGRESS
from iser.scsi.const import Opcode, Status
from iser.scsi.sense import build_sense
from target.scsi.nexus import Nexus
from target.scsi.plan import Done
from target.scsi.reservations import Access
from target.scsi.unit import LogicalUnit

__all__ = ["CONFLICT", "conflicts", "gate"]

#: The answer to a command that a reservation stops.  Shared, so nobody may change it.
CONFLICT: Final = Done(Status.RESERVATION_CONFLICT)

_PERSISTENT = (Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT)


def gate(lu: LogicalUnit, nexus: Nexus, opcode: int, access: Access, *, medium: bool, sanitize: bool) -> Done | None:
    """Why a command may not start, if it may not.

    ``medium`` is whether it needs one, ``sanitize`` whether it is allowed while the unit is being sanitized.
    """
    if lu.reserved_by is not None and opcode in _PERSISTENT:  # the two kinds exclude each other (SPC-4 5.13.3)
        return CONFLICT
    if conflicts(lu, nexus, access):
        return CONFLICT
    if lu.sanitizing is not None and not sanitize:
        return _sanitizing(lu)
    if lu.ejected and medium:
        return lu.check(NO_MEDIUM)
    return None


def conflicts(lu: LogicalUnit, nexus: Nexus, access: Access) -> bool:
    """Whether a reservation keeps ``nexus`` from what it wants."""
    if lu.reserved_by is not None and lu.reserved_by is not nexus and access not in (Access.ALWAYS, Access.OWN):
        return True
    return lu.persistent.conflicts(nexus.id, access)


def _sanitizing(lu: LogicalUnit) -> Done:
    state = lu.sanitizing
    assert state is not None
    if state.failed:
        return lu.check(SANITIZE_FAILED)
    sense = build_sense(SANITIZE_IN_PROGRESS, progress=state.progress, descriptor=lu.descriptor_sense)
    return Done(Status.CHECK_CONDITION, sense)
