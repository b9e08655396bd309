"""One SCSI command at the target, from its arrival to its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from iser.pdu import ScsiCommand
from target.scsi import Plan, ScsiTask

__all__ = ["Task"]


class Task:
    """State of a command; owned by its session's :class:`target.execution.Execution`.

    ``sink`` is where write data goes and ``wanted`` how much of it; ``unsolicited`` counts the bytes that the initiator
    still sends without being asked, ``received`` those that it has sent; ``early`` holds them while there is no sink.
    ``moving`` is true while the RNIC reads into ``sink``; ``running`` counts the coroutines that work for the task.
    Until both are over its memory must stay.  ``waiting`` is a coroutine that uses none yet and may be cancelled.
    ``started`` is of the clock perf_counter_ns.
    """

    __slots__ = (
        "aborted",
        "bhs",
        "data_sn",
        "early",
        "ended",
        "moving",
        "plan",
        "received",
        "running",
        "scsi",
        "sink",
        "staging",
        "started",
        "unsolicited",
        "waiters",
        "waiting",
        "wanted",
    )

    def __init__(self, bhs: ScsiCommand, scsi: ScsiTask, plan: Plan, unsolicited: int) -> None:
        self.started = perf_counter_ns()
        self.bhs = bhs
        self.scsi = scsi
        self.plan = plan
        self.unsolicited = unsolicited
        self.received = 0
        self.data_sn = 0
        self.sink: Sequence[memoryview] = ()
        self.wanted = 0
        self.early: bytearray | None = None
        self.staging: memoryview | None = None
        self.moving = False
        self.running = 0
        self.waiting: asyncio.Task[None] | None = None
        self.aborted = False
        self.ended = False
        self.waiters: list[Callable[[], None]] | None = None

    @property
    def busy(self) -> bool:
        """True while something still uses the task's memory."""
        return self.moving or self.running > 0
