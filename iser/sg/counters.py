"""Exact counts of what registration did: the machine-independent cost of a scatter-gather list."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

__all__ = ["RegistrationCounters"]


@dataclass(slots=True)
class RegistrationCounters:
    """Counts since the session began.  Bytes where the name says so, else events or objects.

    ``allocations`` are pages of memory to copy through that were not there before, ``pool_waits`` commands that had to
    wait for others to give something back.  ``by_strategy`` counts the strategy that served each list, ``fallbacks``
    the reasons why the one asked for did not.
    """

    commands: int = 0
    work_requests: int = 0
    registrations: int = 0
    local_invalidations: int = 0
    remote_invalidations: int = 0
    stags: int = 0
    list_entries: int = 0
    list_bytes: int = 0
    bytes_copied: int = 0
    allocations: int = 0
    pool_waits: int = 0
    by_strategy: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)

    def since(self, earlier: RegistrationCounters) -> RegistrationCounters:
        """The difference from an ``earlier`` copy."""
        return RegistrationCounters(
            **{name.name: getattr(self, name.name) - getattr(earlier, name.name) for name in fields(self)}
        )

    def add(self, other: RegistrationCounters) -> None:
        """Take in the counts of another."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def copy(self) -> RegistrationCounters:
        """A snapshot."""
        return self.since(RegistrationCounters())
