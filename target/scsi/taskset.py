"""The task set of a logical unit: when commands begin that are not all SIMPLE (SAM-5 chapter 8).

A command with the ORDERED attribute begins when all older ones have ended, and younger ones wait for it.  One with HEAD
OF QUEUE begins at once, before all that have not begun.  There is one task set for all I_T nexuses (TST is 000b).

A unit whose commands are all SIMPLE has no task set, and nothing is kept about them.  The first other command makes
one, from what runs then; it goes with the last.

An aborted command may still write for a moment.  Whoever aborted it waits for that, but where its I_T nexus is lost
there is nobody to wait.  So nobody else begins anything on the unit before: what an initiator writes that has logged in
again, or that has taken over, must not be overwritten by what was given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from target.scsi.unit import LogicalUnit

__all__ = ["ACA", "HEAD_OF_QUEUE", "ORDERED", "SIMPLE", "Command", "TaskSet"]

#: Task attributes as iSCSI numbers them (RFC 7143 section 11.3.1); 0 is an untagged command, which counts as SIMPLE.
SIMPLE: Final = 1
ORDERED: Final = 2
HEAD_OF_QUEUE: Final = 3
ACA: Final = 4


class Command(Protocol):
    """A command as whoever runs it knows it: ``waiters`` are called when it has ended, in whatever way."""

    waiters: list[Callable[[], None]] | None


class TaskSet:
    """The commands of ``unit`` from now on, as long as one of them is not SIMPLE.

    Commands that wait are as many as the command windows of the sessions let in.
    """

    __slots__ = ("_begun", "_due", "_held", "_unit")

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._begun: dict[Command, int] = {}
        self._held: dict[Command, tuple[int, Callable[[], None]]] = {}
        self._due = False
        for command in unit.running():
            self._watch(command)
            self._begun[command] = SIMPLE  # so is what is left of a task set that is over
        unit.task_set = self
        unit.update_gate()

    @classmethod
    def of(cls, unit: LogicalUnit) -> TaskSet:
        """The task set that ``unit`` has, or a new one."""
        return unit.task_set or cls(unit)

    def enter(self, command: Command, attribute: int, begin: Callable[[], None]) -> bool:
        """``command`` has come.  True when it may begin now; else ``begin`` is called when it may.

        It is not called for a command that was aborted before.
        """
        self._watch(command)
        if attribute == HEAD_OF_QUEUE or (not self._held and self._may_begin(attribute)):
            self._begun[command] = attribute
            return True
        self._held[command] = attribute, begin
        return False

    def outlast(self, command: Command) -> None:
        """Nothing begins before ``command`` has ended, which was aborted with its I_T nexus and is not over yet."""
        if command not in self._begun:
            self._watch(command)
        self._begun[command] = ORDERED

    def _may_begin(self, attribute: int) -> bool:
        """Whether the oldest command that waits may go on waiting no longer."""
        if attribute == ORDERED:
            return not self._begun
        return all(other <= SIMPLE for other in self._begun.values())

    def _watch(self, command: Command) -> None:
        command.waiters = [*(command.waiters or ()), partial(self._ended, command)]

    def _ended(self, command: Command) -> None:
        """Others begin in the next turn of the loop: one that ends now may be the first of many that are aborted."""
        self._begun.pop(command, None)
        self._held.pop(command, None)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        """Let begin what may; as each waits for those before it, the first that may not holds up the rest."""
        self._due = False
        while self._held:
            command, (attribute, begin) = next(iter(self._held.items()))
            if not self._may_begin(attribute):
                return
            del self._held[command]
            self._begun[command] = attribute
            begin()
        if self._unit.task_set is self and all(attribute <= SIMPLE for attribute in self._begun.values()):
            self._unit.task_set = None
            self._unit.update_gate()
