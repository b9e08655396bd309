"""What a target counts: plain integers, added to in passing and read when somebody asks."""

from __future__ import annotations

from collections import Counter
from time import perf_counter_ns
from typing import Final, NamedTuple

from iser.login import Transport

__all__ = ["LATENCY_SLOTS", "LunCounters", "LunKey", "TargetCounters"]

#: Latencies are kept by the number of bits of their nanoseconds; no clock counts further.
LATENCY_SLOTS: Final = 64


class LunKey(NamedTuple):
    """A LUN by its own number, whatever initiators see it as, over one transport; None is for LUNs not there."""

    target: str
    lun: int | None
    transport: Transport


class LunCounters:
    """The commands of one session to one LUN.

    ``latency[n]`` counts those that took less than ``2**n`` ns, and no less than half of that; ``nanoseconds`` is their
    sum.  ``errors`` counts by SCSI status.  ``aborted`` commands, which get no status, are not in ``commands``.
    """

    __slots__ = ("aborted", "commands", "errors", "latency", "nanoseconds", "read_bytes", "written_bytes")

    def __init__(self) -> None:
        self.commands = 0
        self.nanoseconds = 0
        self.read_bytes = 0
        self.written_bytes = 0
        self.aborted = 0
        self.errors: dict[int, int] = {}
        self.latency = [0] * LATENCY_SLOTS

    def finished(self, started: int, status: int, length: int, write: bool) -> None:
        """A command has its status; ``started`` is of the clock perf_counter_ns, ``length`` the bytes that moved."""
        elapsed = perf_counter_ns() - started
        self.commands += 1
        self.nanoseconds += elapsed
        self.latency[elapsed.bit_length()] += 1
        if write:
            self.written_bytes += length
        else:
            self.read_bytes += length
        if status:
            self.errors[status] = self.errors.get(status, 0) + 1

    def add(self, other: LunCounters) -> None:
        """Add what ``other`` counted."""
        self.commands += other.commands
        self.nanoseconds += other.nanoseconds
        self.read_bytes += other.read_bytes
        self.written_bytes += other.written_bytes
        self.aborted += other.aborted
        for status, count in other.errors.items():
            self.errors[status] = self.errors.get(status, 0) + count
        self.latency = [ours + theirs for ours, theirs in zip(self.latency, other.latency, strict=True)]

    def copy(self) -> LunCounters:
        """The same counts, which stay as they are."""
        new = LunCounters()
        new.add(self)
        return new


class TargetCounters:
    """What outlives sessions: ``ended`` has the commands of those that are over, ``logins`` counts those that began.

    ``refused`` counts logins by why: the four digits of the status (RFC 7143 section 11.13.5), ``timeout`` where none
    came in time, ``crowded`` where a connection had to make room, ``full`` where one was not accepted at all.
    ``redirected`` counts those that were told to go to the process that serves their target.
    """

    __slots__ = ("ended", "logins", "redirected", "refused")

    def __init__(self) -> None:
        self.ended: dict[LunKey, LunCounters] = {}
        self.logins = 0
        self.redirected = 0
        self.refused: Counter[str] = Counter()

    def session_over(self, target: str, transport: Transport, luns: dict[int | None, LunCounters]) -> None:
        """Keep what a session counted, by LUN."""
        for lun, counters in luns.items():
            self.ended.setdefault(LunKey(target, lun, transport), LunCounters()).add(counters)
