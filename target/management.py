"""Task management functions (RFC 7143 section 11.5, SAM-5 chapter 7), over all sessions of a target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from iser.pdu import RESERVED_TAG, TASK_MANAGEMENT_FUNCTION_MASK, TaskManagementRequest
from iser.pdu.const import TaskManagementFunction as Function
from iser.pdu.const import TaskManagementResponseCode as Code
from target.scsi import LogicalUnit, Nexus, TargetDevice
from target.session import Session
from target.task import Task

__all__ = ["TaskManager"]

_ON_A_UNIT: Final = (
    Function.ABORT_TASK,
    Function.ABORT_TASK_SET,
    Function.CLEAR_TASK_SET,
    Function.LOGICAL_UNIT_RESET,
)


class TaskManager:
    """Carries out functions for one target device; ``sessions`` maps each session on it to its I_T nexus."""

    def __init__(self, device: TargetDevice, sessions: dict[Session, Nexus]) -> None:
        self._device = device
        self._sessions = sessions
        device.abort_tasks = self._abort_tasks_of
        device.running = self._running

    def manage(self, session: Session, bhs: TaskManagementRequest, done: Callable[[int], None]) -> None:
        """Begin a function for ``session``; ``done`` gets the response code when the last task touched has ended."""
        function = bhs.flags & TASK_MANAGEMENT_FUNCTION_MASK
        if function == Function.TARGET_WARM_RESET:
            self._reset(session, self._device.luns.values(), done)
        elif function == Function.TARGET_COLD_RESET:
            self._reset(session, self._device.luns.values(), partial(self._cold, done))
        elif function == Function.TASK_REASSIGN:
            done(Code.REASSIGNMENT_NOT_SUPPORTED)
        elif function not in _ON_A_UNIT:
            done(Code.FUNCTION_NOT_SUPPORTED)
        else:
            self._on_unit(session, function, bhs, done)

    def _on_unit(
        self, session: Session, function: int, bhs: TaskManagementRequest, done: Callable[[int], None]
    ) -> None:
        unit = session.unit(bhs.lun)
        if unit is None:
            done(Code.LUN_DOES_NOT_EXIST)
        elif function == Function.ABORT_TASK:
            self._abort_task(session, bhs, done)
        elif function == Function.ABORT_TASK_SET:
            _drop_all({session: self._tasks_on(session, unit)}, done)
        elif function == Function.CLEAR_TASK_SET:
            self._clear(session, unit, done)
        else:
            self._reset(session, [unit], done)

    def _abort_task(self, session: Session, bhs: TaskManagementRequest, done: Callable[[int], None]) -> None:
        tasks = session.tasks_where(lambda command: command.itt == bhs.referenced_task_tag)
        if not tasks:
            # A command that was answered before the function came is no task; one that never came shall not come now.
            if bhs.referenced_task_tag == RESERVED_TAG:
                done(Code.FUNCTION_REJECTED)
            else:
                never_came = session.give_up(bhs.ref_cmd_sn, bhs.cmd_sn)
                done(Code.FUNCTION_COMPLETE if never_came else Code.TASK_DOES_NOT_EXIST)
            return
        _drop_all({session: tasks}, done)

    def _clear(self, session: Session, unit: LogicalUnit, done: Callable[[int], None]) -> None:
        hit = {other: self._tasks_on(other, unit) for other in self._sessions}
        victims = [self._sessions[other] for other, tasks in hit.items() if tasks and other is not session]
        self._device.commands_cleared(unit, victims)
        _drop_all(hit, done)

    def _reset(self, session: Session, units: Iterable[LogicalUnit], done: Callable[[int], None]) -> None:
        hit: dict[Session, list[Task]] = {other: [] for other in self._sessions}
        for unit in units:
            for other, tasks in hit.items():
                tasks.extend(self._tasks_on(other, unit))
            self._device.lun_reset(unit)
        _drop_all(hit, done)

    async def _abort_tasks_of(self, unit: LogicalUnit, nexuses: Sequence[Nexus]) -> None:
        """End what ``nexuses`` run on ``unit``: PREEMPT AND ABORT wants that done before it is answered."""
        victims = set(nexuses)
        hit = {session: self._tasks_on(session, unit) for session, nexus in self._sessions.items() if nexus in victims}
        over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        _drop_all(hit, over.set_result)
        await over

    def _cold(self, done: Callable[[int], None], code: int) -> None:
        """A cold reset ends every session behind its answer (RFC 7143 section 11.5.1)."""
        done(code)
        for session in list(self._sessions):
            session.close("the target was reset")

    def _running(self, unit: LogicalUnit) -> Iterator[Task]:
        for session in self._sessions:
            yield from self._tasks_on(session, unit)

    def _tasks_on(self, session: Session, unit: LogicalUnit) -> list[Task]:
        return session.tasks_where(lambda command: session.unit(command.lun) is unit)


def _drop_all(hit: dict[Session, list[Task]], done: Callable[[int], None]) -> None:
    """Abort all that was hit, then report the function complete."""
    left = sum(map(bool, hit.values()))
    if not left:
        done(Code.FUNCTION_COMPLETE)
        return

    def session_done() -> None:
        nonlocal left
        left -= 1
        if not left:
            done(Code.FUNCTION_COMPLETE)

    for session, tasks in hit.items():
        if tasks:
            session.drop(tasks, session_done)
