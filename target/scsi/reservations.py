"""Reservations of one logical unit: RESERVE(6) of SPC-2 and persistent ones of SPC-4 5.13, as plain state.

Nothing here knows of CDBs, sense data or disks.  An I_T nexus is known by its :func:`target.scsi.nexus.nexus_id`, for
what it registered outlives its session.  A changed state is a new object, so that it can be stored before it takes
effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from iser.scsi.const import ReservationType as Type

__all__ = ["ALL_REGISTRANTS", "MAX_REGISTRATIONS", "REGISTRANTS_ONLY", "Access", "Persistent", "Reservation"]

#: The most I_T nexuses that may be registered with one logical unit.
MAX_REGISTRATIONS: Final = 256

REGISTRANTS_ONLY: Final = (Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY)
ALL_REGISTRANTS: Final = (Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
_WRITE_EXCLUSIVE: Final = (
    Type.WRITE_EXCLUSIVE,
    Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
)


class Access(Enum):
    """What a command does to the unit, as far as reservations care (SPC-4 table 68, SBC-3 table 13).

    ALWAYS passes every reservation, also that of RESERVE(6).  FREE passes persistent ones only.  READ passes those of
    a Write Exclusive type.  WRITE passes none.  OWN decides for itself.
    """

    ALWAYS = auto()
    FREE = auto()
    READ = auto()
    WRITE = auto()
    OWN = auto()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Who holds a persistent reservation, by name, and its type.  With ALL_REGISTRANTS every registrant does."""

    holder: str
    type: Type


@dataclass(frozen=True, slots=True)
class Persistent:
    """Registrations (name of the nexus to key), the reservation, and PRGENERATION.

    ``aptpl`` is whether the state outlives a loss of power; ``generation`` does not count what RESERVE and RELEASE do.
    """

    keys: Mapping[str, int] = field(default_factory=dict)
    reservation: Reservation | None = None
    aptpl: bool = False
    generation: int = 0

    def holds(self, name: str) -> bool:
        """Whether ``name`` is a holder of the reservation."""
        held = self.reservation
        return held is not None and (held.holder == name or (held.type in ALL_REGISTRANTS and name in self.keys))

    def conflicts(self, name: str, access: Access) -> bool:
        """Whether a command of ``name`` with ``access`` conflicts with the reservation."""
        held = self.reservation
        if held is None or access not in (Access.READ, Access.WRITE) or self.holds(name):
            return False
        if held.type in REGISTRANTS_ONLY and name in self.keys:
            return False
        return access is Access.WRITE or held.type not in _WRITE_EXCLUSIVE

    def register(self, names: Collection[str], key: int, aptpl: bool) -> Persistent:
        """``names`` have ``key`` from now on; 0 unregisters them, which may end the reservation (SPC-4 5.13.11.2)."""
        keys = {other: value for other, value in self.keys.items() if key or other not in names}
        if key:
            keys.update(dict.fromkeys(names, key))
        return replace(self, keys=keys, aptpl=aptpl, generation=self._next())._without_orphan()

    def reserve(self, name: str, kind: Type) -> Persistent:
        """``name`` holds the unit."""
        return replace(self, reservation=Reservation(name, kind))

    def release(self) -> Persistent:
        """Nobody holds the unit."""
        return replace(self, reservation=None)

    def clear(self) -> Persistent:
        """No reservation and no registration."""
        return Persistent(generation=self._next())

    def preempt(self, name: str, victims: set[str], kind: Type | None) -> Persistent:
        """``victims`` are unregistered; with a ``kind``, ``name`` takes the reservation over."""
        keys = {other: value for other, value in self.keys.items() if other not in victims}
        changed = replace(self, keys=keys, generation=self._next())
        return changed._without_orphan() if kind is None else changed.reserve(name, kind)

    def move(self, old: str, new: str, key: int, unregister: bool, aptpl: bool) -> Persistent:
        """``new`` is registered with ``key`` and holds the reservation that was ``old``'s (SPC-4 5.13.8)."""
        assert self.reservation is not None
        keys = {other: value for other, value in self.keys.items() if other != old or not unregister}
        keys[new] = key
        held = Reservation(new, self.reservation.type)
        return replace(self, keys=keys, reservation=held, aptpl=aptpl, generation=self._next())

    def _without_orphan(self) -> Persistent:
        """A reservation ends with its holder's registration; one of all registrants with the last of them."""
        held = self.reservation
        if held is None or (self.keys and held.type in ALL_REGISTRANTS) or held.holder in self.keys:
            return self
        return self.release()

    def _next(self) -> int:
        return (self.generation + 1) & 0xFFFFFFFF
