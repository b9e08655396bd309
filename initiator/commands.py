"""SCSI commands of a session: the window, their way out and back, and giving up on them (RFC 7143 sections 4.2, 11.4).

All state changes happen in plain calls from the event loop, most of them in the datamover's up-calls; the coroutines
only wait.  A command costs one future and no timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Final

from initiator.requests import NEVER, SERIAL_HALF, Requests
from initiator.task import GOOD, Request, ScsiResult, Task, code_name
from iser.datamover import QuickCommands, TaskBuffers
from iser.errors import CommandAborted, CommandError, CommandTimeout, ConnectionLost, IserError, PoolEmpty, UsageError
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    RESERVED_TAG,
    RESPONSE_OVERFLOW,
    ExtendedCdb,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    TaskAttribute,
    TaskManagementFunction,
    TaskManagementRequest,
    TaskManagementResponse,
    TaskManagementResponseCode,
)
from iser.scsi.lun import encode_lun
from iser.sg import SgList

__all__ = ["ABORT_TIMEOUT", "MAX_CDB", "Commands"]

ABORT_TIMEOUT: Final = 15.0  # seconds for a task management function; after that the connection is dropped
MAX_CDB: Final = 260  # bytes, SPC-4 4.2.3

_MASK: Final = 0xFFFFFFFF
_BHS_CDB: Final = 16  # bytes of a CDB in the BHS
_FLAGS: Final = FINAL | TaskAttribute.SIMPLE
_ZEROES: Final = bytes(_BHS_CDB)
_SCSI_COMMAND: Final = ScsiCommand().opcode
_new: Final = tuple.__new__

_ENDS_LUN: Final = (
    TaskManagementFunction.ABORT_TASK_SET,
    TaskManagementFunction.CLEAR_TASK_SET,
    TaskManagementFunction.LOGICAL_UNIT_RESET,
)
_ENDS_ALL: Final = (TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET)

log = logging.getLogger("iser.initiator")


class Commands(Requests):
    """``queue_depth`` caps the commands outstanding, below the target's CmdSN window.

    What finds no room waits, and is sent in order.
    """

    def __init__(self, queue_depth: int, timeout: float, *, immediate_data: bool) -> None:
        super().__init__(timeout)
        self.queue_depth = queue_depth
        self._immediate_data = immediate_data
        self._max_immediate = 0  # bytes of a write that travel with its command
        self._tasks: dict[int, Task] = {}
        self._backlog: deque[Task] = deque()
        self._quick: QuickCommands | None = None

    @property
    def outstanding(self) -> tuple[int, ...]:
        """The tags of the commands at the target now, oldest first."""
        return tuple(self._tasks)

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_in: SgList | None = None,
        data_out: SgList | None = None,
        timeout: float | None = None,
    ) -> ScsiResult:
        """Carry out one SCSI command; its status, whatever it is, is the result.

        ``lun`` is the 64-bit LUN field.  ``timeout`` in seconds counts from now, waiting for room included.  When the
        caller is cancelled, or the time is up, the command is aborted at the target first, and its buffers are the
        caller's again when this returns.

        Raises CommandTimeout, CommandAborted, ConnectionLost, ResourceError for a list that cannot be registered,
        CommandError for a command that the target rejected or gave no status for, UsageError.
        """
        task = self.start(lun, cdb, data_in, data_out, timeout)
        try:
            return await task.future
        except (asyncio.CancelledError, CommandTimeout):
            await self.withdraw(task)
            # The traceback refers to this frame, and CPython 3.11 does not collect a cycle through a cancelled future.
            del task, data_in, data_out
            raise

    def start(
        self,
        lun: int,
        cdb: bytes,
        data_in: SgList | None = None,
        data_out: SgList | None = None,
        timeout: float | None = None,
    ) -> Task:
        """The first half of :meth:`execute`, without a coroutine.

        The caller awaits the future of the task, and :meth:`withdraw` when that raises CancelledError or
        CommandTimeout.  Raises ConnectionLost, ResourceError, UsageError, with nothing started.
        """
        loop = self._loop
        deadline = loop.time() + (self.timeout if timeout is None else timeout)
        task = Task(lun, cdb, data_in, data_out, deadline, loop.create_future())
        if self._ended:
            raise ConnectionLost(self._ended)
        if (
            len(self._tasks) < self.queue_depth
            and (self._max_cmd_sn - self._cmd_sn & _MASK) < SERIAL_HALF
            and not self._backlog
        ):
            try:
                self._issue(task)
            except PoolEmpty:
                if not self._tasks:
                    raise  # nobody will give anything back
                self._backlog.append(task)
        else:
            self._backlog.append(task)
        if deadline < self._wakeup:
            self._arm(deadline)
        return task

    def _issue(self, task: Task) -> None:
        """Send a command.  Raises UsageError, ResourceError; nothing has been sent then."""
        itt, cmd_sn = self._tags.take(), self._cmd_sn
        quick, data_in, cdb = self._quick, task.data_in, task.cdb
        try:
            if (
                quick is not None
                and task.data_out is None
                and data_in is not None
                and data_in.length
                and len(cdb) <= _BHS_CDB
            ):
                quick.quick_read(itt, task.lun, cmd_sn, self._exp_stat_sn, cdb, data_in)
            else:
                self._send_command(task, itt)
        except BaseException:
            self._tags.give(itt)
            raise
        self._cmd_sn = (cmd_sn + 1) & _MASK
        task.itt, task.cmd_sn = itt, cmd_sn
        self._tasks[itt] = task

    def _send_command(self, task: Task, itt: int) -> None:
        """The long way of :meth:`_issue`, for any command."""
        data_in, data_out, cdb = task.data_in, task.data_out, task.cdb
        flags, edtl, immediate, ahs_words = _FLAGS, 0, 0, 0
        if data_in is not None and data_in.length:
            flags, edtl = flags | COMMAND_READ, data_in.length
        if data_out is not None and data_out.length:
            if edtl:
                raise UsageError("a command moves data in or out; pass data_in or data_out, not both")
            flags, edtl = flags | COMMAND_WRITE, data_out.length
            # All of it or nothing, which leaves no doubt about where the STag's bytes begin; and no peer finds
            # immediate data behind an AHS.
            if edtl <= self._max_immediate and len(cdb) <= _BHS_CDB:
                immediate = edtl
        ahs: tuple[ExtendedCdb, ...] = ()
        if len(cdb) != _BHS_CDB:
            if len(cdb) > _BHS_CDB:
                ahs, ahs_words = _extended(cdb)
            cdb = (cdb + _ZEROES)[:_BHS_CDB]
        # Without the calls of Python code that making these tuples by name takes.
        bhs = _new(
            ScsiCommand,
            (_SCSI_COMMAND, flags, ahs_words, immediate, task.lun, itt, edtl, self._cmd_sn, self._exp_stat_sn, cdb),
        )
        self._datamover.send_command(_new(Pdu, (bhs, b"", ahs)), TaskBuffers(data_in, data_out, immediate, immediate))

    def _pump(self) -> None:
        """Send waiting commands, in order, as far as there is room."""
        backlog, tasks = self._backlog, self._tasks
        while backlog and len(tasks) < self.queue_depth and (self._max_cmd_sn - self._cmd_sn & _MASK) < SERIAL_HALF:
            task = backlog.popleft()
            if task.future.done():
                continue
            try:
                self._issue(task)
            except PoolEmpty as error:
                if tasks:
                    backlog.appendleft(task)  # first in line for what other commands hold
                    return
                task.future.set_exception(error)  # nobody will give anything back
            except IserError as error:
                task.future.set_exception(error)

    def _respond(self, pdu: Pdu, bhs: ScsiResponse) -> None:
        itt = bhs.itt
        self._exp_stat_sn = (bhs.stat_sn + 1) & _MASK
        max_cmd_sn = bhs.max_cmd_sn
        if (max_cmd_sn - self._max_cmd_sn & _MASK) < SERIAL_HALF:
            self._max_cmd_sn = max_cmd_sn
        task = self._tasks.pop(itt, None)
        if task is None:
            self._unknown_tag(itt, "SCSI Response")
            return
        self._tags.give(itt)
        future = task.future
        if not future.done():
            if bhs.response:
                future.set_exception(
                    CommandError(f"the target failed the command: service response {bhs.response:#04x}")
                )
            elif bhs.status or bhs.residual or pdu.data:
                future.set_result(_result(pdu, bhs))
            else:
                future.set_result(GOOD)
        if task.gone is not None:
            task.over()
        if self._backlog:
            self._pump()

    def _good(self, itt: int, stat_sn: int, max_cmd_sn: int) -> None:
        """The short way of :meth:`_respond`, for what most commands end with: see QuickCommands."""
        self._exp_stat_sn = (stat_sn + 1) & _MASK
        if (max_cmd_sn - self._max_cmd_sn & _MASK) < SERIAL_HALF:
            self._max_cmd_sn = max_cmd_sn
        task = self._tasks.pop(itt, None)
        if task is None:
            self._unknown_tag(itt, "SCSI Response")
            return
        self._tags.give(itt)
        if not task.future.done():
            task.future.set_result(GOOD)
        if task.gone is not None:
            task.over()
        if self._backlog:
            self._pump()

    # Giving up on commands

    async def withdraw(self, task: Task) -> None:
        """Return when the target can no longer touch the buffers of ``task``, which nobody waits for any more."""
        if not task.itt:
            if task in self._backlog:
                self._backlog.remove(task)
            return
        if self._tasks.get(task.itt) is not task:
            return
        task.gone = gone = self._loop.create_future()
        self._abort(task)
        cancelled = False
        while not gone.done():
            try:
                await asyncio.wait((gone,))
            except asyncio.CancelledError:
                cancelled = True  # once more, but still the memory is not the caller's
        if cancelled:
            raise asyncio.CancelledError

    def _abort(self, task: Task) -> None:
        """Send ABORT TASK; its answer, or else the end of the connection, ends ``task``."""
        log.info("%s: aborting task %#x", self._datamover.name, task.itt)
        task.deadline = NEVER  # until the target has answered, the request's deadline counts
        try:
            request = self._manage(TaskManagementFunction.ABORT_TASK, task.lun, task.itt, task.cmd_sn)
        except IserError as error:
            self._drop(f"task {task.itt:#x} could not be aborted: {error}")
            return
        request.future.add_done_callback(lambda future: self._abort_answered(task, future))

    def _abort_answered(self, task: Task, future: asyncio.Future[Pdu]) -> None:
        error = future.exception()
        if self._tasks.get(task.itt) is not task:
            return  # the connection has ended, or the task's own response came first
        if error:
            self._drop(f"the target did not abort task {task.itt:#x}: {error}")
            return
        code = _code(future.result())
        if code <= TaskManagementResponseCode.LUN_DOES_NOT_EXIST:
            self._forget(task)
        else:
            # The target goes on with it: its response may still come before the deadline that drops the connection.
            self._set_deadline(task, ABORT_TIMEOUT)
            answer = code_name(TaskManagementResponseCode, code)
            log.warning("%s: the target did not abort task %#x: %s", self._datamover.name, task.itt, answer)

    def _forget(self, task: Task, error: IserError | None = None) -> None:
        """End a task without a response; its tags are invalidated."""
        itt = task.itt
        del self._tasks[itt]
        self._aborted.append(itt)
        self._tags.give(itt)
        self._datamover.deallocate_task_resources(itt)
        if error and not task.future.done():
            task.future.set_exception(error)
        task.over()
        self._pump()

    def _all_tasks(self) -> Iterable[Task]:
        return (*self._tasks.values(), *self._backlog)

    def _task_overdue(self, task: Task) -> None:
        if task.gone is not None:
            self._drop(f"the target did not abort task {task.itt:#x} within {ABORT_TIMEOUT:g} seconds")
        elif not task.future.done():
            what = "was not answered in time and was aborted" if task.itt else "found no room in the window in time"
            task.future.set_exception(CommandTimeout(f"the command {what}; the target may be overloaded or hung"))

    def _fail_tasks(self, why: str) -> None:
        """Fail every command; the datamover has freed their tags."""
        tasks = self._all_tasks()
        self._tasks.clear()
        self._backlog.clear()
        for task in tasks:
            if not task.future.done():
                task.future.set_exception(ConnectionLost(why))
            task.over()

    # Task management

    async def manage_tasks(self, function: TaskManagementFunction, lun: int = 0, itt: int = RESERVED_TAG) -> int:
        """Carry out a task management function on the LUN field ``lun`` and, for ABORT TASK, the command ``itt``.

        Returns the target's answer, a TaskManagementResponseCode as a rule; those who await a command that it ended get
        CommandAborted.  Raises ConnectionLost, and CommandTimeout, the connection dropped, when there is no answer
        within ABORT_TIMEOUT.
        """
        self._require_open()
        victims = [task for task in self._tasks.values() if _ends(function, lun, itt, task)]
        referenced = self._tasks.get(itt)
        request = self._manage(function, lun, itt, referenced.cmd_sn if referenced else self._cmd_sn)
        try:
            code = _code(await self._ask(request))
        except CommandTimeout as error:
            self._drop(str(error))
            raise
        if code == TaskManagementResponseCode.FUNCTION_COMPLETE:
            for task in victims:
                if self._tasks.get(task.itt) is task:
                    self._forget(task, CommandAborted(f"the command was aborted by {_function_name(function)}"))
        return code

    async def abort_task(self, lun: int, itt: int) -> int:
        """Abort one command at a LUN number by its tag; cancelling what awaits the command does the same."""
        return await self.manage_tasks(TaskManagementFunction.ABORT_TASK, encode_lun(lun), itt)

    async def abort_task_set(self, lun: int) -> int:
        """Abort all commands of this session at a LUN number."""
        return await self.manage_tasks(TaskManagementFunction.ABORT_TASK_SET, encode_lun(lun))

    async def lun_reset(self, lun: int) -> int:
        """Reset a LUN number, for every initiator."""
        return await self.manage_tasks(TaskManagementFunction.LOGICAL_UNIT_RESET, encode_lun(lun))

    async def target_warm_reset(self) -> int:
        """Reset every LUN of the target."""
        return await self.manage_tasks(TaskManagementFunction.TARGET_WARM_RESET)

    async def target_cold_reset(self) -> int:
        """Reset the target, which drops every session."""
        return await self.manage_tasks(TaskManagementFunction.TARGET_COLD_RESET)

    def _manage(self, function: TaskManagementFunction, lun: int, itt: int, cmd_sn: int) -> Request:
        bhs = TaskManagementRequest(
            flags=FINAL | function,
            lun=lun,
            referenced_task_tag=itt,
            ref_cmd_sn=cmd_sn if function == TaskManagementFunction.ABORT_TASK else 0,
        )
        return self._request(bhs, _function_name(function), TaskManagementResponse, ABORT_TIMEOUT)


def _ends(function: TaskManagementFunction, lun: int, itt: int, task: Task) -> bool:
    if function == TaskManagementFunction.ABORT_TASK:
        return task.itt == itt
    return function in _ENDS_ALL or (function in _ENDS_LUN and task.lun == lun)


def _extended(cdb: bytes) -> tuple[tuple[ExtendedCdb, ...], int]:
    """The AHS of a long CDB, and its length in words."""
    if len(cdb) > MAX_CDB:
        raise UsageError(f"a CDB of {len(cdb)} bytes; at most {MAX_CDB} are allowed")
    rest = len(cdb) - _BHS_CDB
    return (ExtendedCdb(cdb[_BHS_CDB:]),), (4 + rest + 3) // 4


def _result(pdu: Pdu, bhs: ScsiResponse) -> ScsiResult:
    data = bytes(pdu.data)
    sense = data[2 : 2 + int.from_bytes(data[:2], "big")]
    return ScsiResult(bhs.status, sense, bhs.residual, bool(bhs.flags & RESPONSE_OVERFLOW))


def _function_name(function: TaskManagementFunction) -> str:
    return code_name(TaskManagementFunction, function)


def _code(pdu: Pdu) -> int:
    response = pdu.bhs
    assert isinstance(response, TaskManagementResponse)
    return response.response
