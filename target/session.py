"""A full-feature session at the target: what each PDU does (RFC 7143 sections 4.2 and 11)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from iser.datamover import TargetDatamover
from iser.errors import IserError, PduError
from iser.login import LoginResult
from iser.login.textneg import TextResponder
from iser.pdu import (
    COMMAND_WRITE,
    FINAL,
    IMMEDIATE,
    LOGOUT_REASON_MASK,
    RESERVED_TAG,
    RESPONSE_OVERFLOW,
    RESPONSE_UNDERFLOW,
    DataOut,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    encode_bhs,
    sn_lt,
)
from iser.pdu.const import LogoutReason, LogoutResponseCode, RejectReason
from iser.scsi.const import Status
from target.counters import LunCounters
from target.execution import Execution
from target.numbering import Numbering
from target.quick import QuickWay
from target.scsi import Done, LogicalUnit, TargetDevice, TaskSet
from target.task import Task

__all__ = ["MAX_DRAINING", "MAX_IMMEDIATE", "Session", "SessionOwner"]

MAX_IMMEDIATE: Final = 16  # immediate commands running at once; each uses a receive beyond the window
MAX_DRAINING: Final = 64  # ended commands whose unsolicited data may still come

log = logging.getLogger("iser.target")


class SessionOwner(Protocol):
    """What a session asks of the connection and the server that it lives in."""

    def manage_tasks(self, session: Session, bhs: TaskManagementRequest, done: Callable[[int], None]) -> None:
        """Carry out a task management function; ``done`` gets the response code when all its effects are over."""

    def number_of(self, session: Session, unit: LogicalUnit) -> int | None:
        """The LUN number that the target itself has for ``unit``, whatever the session sees it as."""

    def close(self, session: Session, why: str) -> None:
        """End the connection behind what is queued; the session gets no more PDUs."""


class Session:
    """One session on its one connection.  ``execution`` is None in a discovery session, which only lists targets."""

    def __init__(
        self,
        owner: SessionOwner,
        login: LoginResult,
        datamover: TargetDatamover,
        execution: Callable[[Session], Execution] | None,
        text: TextResponder,
        queue_depth: int,
    ) -> None:
        self.login = login
        self.name = datamover.name
        self.tasks: dict[int, Task] = {}
        self.ending: set[Task] = set()  # aborted, but their memory is still in use
        self.counters: dict[int | None, LunCounters] = {}  # by our LUN number; None is for LUNs that are not there
        self._counters: dict[int, LunCounters] = {}  # the same by LUN field, of which a number may have two
        self._owner = owner
        self._datamover = datamover
        self._text = text
        self._numbers = Numbering(login.cmd_sn, login.stat_sn, queue_depth)
        self._held: dict[int, Pdu | None] = {}  # by CmdSN, all in the window; None is a command that was given up
        self._draining: dict[int, int] = {}
        self._immediate = 0
        self.execution = execution(self) if execution else None
        self._quick: QuickWay | None = None
        if self.execution and datamover.quick is not None:
            others = (self._held, self._draining)
            self._quick = QuickWay(
                self, self.execution, datamover.quick, login.params, self._numbers, self.tasks, others
            )
            datamover.quick.serve_quickly(self._quick.start)
        self._handlers: dict[type[Any], Callable[[Pdu], None]] = {
            NopOut: self._nop,
            TextRequest: self._text_request,
            LogoutRequest: self._logout,
        }
        if self.execution:
            self._handlers |= {ScsiCommand: self._command, TaskManagementRequest: self._task_management}

    # Up-calls of the datamover

    def control_notify(self, pdu: Pdu) -> None:
        """A PDU came in."""
        bhs = pdu.bhs
        if type(bhs) is DataOut:
            self._data_out(pdu, bhs)
            return
        handler = self._handlers.get(type(bhs))
        if handler is None:
            self._forget_tags(bhs.itt)
            self._reject(pdu, RejectReason.PROTOCOL_ERROR, f"a {type(bhs).__name__} is not allowed here")
        elif bhs.opcode & IMMEDIATE:
            handler(pdu)
        elif bhs.cmd_sn == self._numbers.exp_cmd_sn and self._numbers.room:  # type: ignore[union-attr]  # has a CmdSN
            self._in_order(handler, pdu)
        else:
            self._out_of_order(pdu, bhs.cmd_sn)  # type: ignore[union-attr]

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        """A message came in that is no PDU.

        One whose lengths are wrong has a format error, which ends the session (RFC 7143 section 7): nothing in it can
        be believed, its tag least of all.  libiscsi 1.19 sends such over iSER, and a Reject would crash it.
        """
        if error.reason != RejectReason.COMMAND_NOT_SUPPORTED:
            raise error
        log.info("%s: rejecting: %s", self.name, error)
        self._send_reject(error.reason, bhs)

    def data_completion_notify(self, itt: int, sn: int) -> None:
        """Data of a task has moved."""
        del itt
        if self.execution:
            self.execution.data_completed(sn)

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        """The write data of a task cannot be had."""
        log.info("%s: task %#x: %s", self.name, itt, error)
        if self.execution:
            self.execution.data_failed(sn)

    def abort_all(self) -> None:
        """The connection ends: drop every task; memory that data moves in stays until :meth:`connection_lost`."""
        self._held.clear()
        for task in list(self.tasks.values()):
            self._drop(task)
        for task in self.ending:
            unit = self.unit(task.bhs.lun)
            if unit is not None:
                TaskSet.of(unit).outlast(task)

    def connection_lost(self) -> None:
        """The connection has ended and is flushed: drop every task and free all that it held."""
        self.abort_all()
        if self.execution:
            self.execution.connection_lost()

    def close(self, why: str) -> None:
        """End the session and its connection."""
        self._owner.close(self, why)

    # Order

    def _in_order(self, handler: Callable[[Pdu], None], pdu: Pdu) -> None:
        self._numbers.begin()
        handler(pdu)
        if self._held:
            self._run_held()

    def _run_held(self) -> None:
        """Go on with what waited for the number that has come."""
        numbers = self._numbers
        while numbers.exp_cmd_sn in self._held:
            held = self._held.pop(numbers.exp_cmd_sn)
            numbers.begin()
            if held is None:
                numbers.end()
            else:
                self._handlers[type(held.bhs)](held)

    def _out_of_order(self, pdu: Pdu, cmd_sn: int) -> None:
        """Keep what came early, drop what is outside the window or came twice (RFC 7143 section 4.2.2.1)."""
        if not self._numbers.admits(cmd_sn) or cmd_sn in self._held:
            log.info("%s: dropping a PDU: CmdSN %d is not in the window", self.name, cmd_sn)
            self._forget_tags(pdu.bhs.itt)
            return
        self._held[cmd_sn] = pdu._replace(data=bytes(pdu.data))

    def give_up(self, cmd_sn: int, before: int) -> bool:
        """Take a command that never came, and no longer shall, as received (RFC 7143 section 11.6.1 case b).

        False when ``cmd_sn`` is not in the window, not before the CmdSN of the function, or has been received.
        """
        if not self._numbers.admits(cmd_sn) or not sn_lt(cmd_sn, before):
            return False
        held = self._held.get(cmd_sn)
        self._held[cmd_sn] = None
        if held is not None:
            self._forget_tags(held.bhs.itt)
        self._run_held()
        return True

    def _forget_tags(self, itt: int) -> None:
        """A PDU is thrown away: so are the tags it advertised, unless they are those of a task with the same name."""
        if itt not in self.tasks and not any(held and held.bhs.itt == itt for held in self._held.values()):
            self._datamover.deallocate_task_resources(itt)

    # SCSI

    def _command(self, pdu: Pdu) -> None:
        bhs = pdu.bhs
        assert type(bhs) is ScsiCommand
        assert self.execution is not None
        itt = bhs.itt
        if bhs.opcode & IMMEDIATE:
            self._immediate += 1
            if self._immediate > MAX_IMMEDIATE:
                self._refuse(pdu, RejectReason.TOO_MANY_IMMEDIATE_COMMANDS, "too many immediate commands")
                return
        if itt in self.tasks or itt == RESERVED_TAG:
            self._refuse(pdu, RejectReason.TASK_IN_PROGRESS, f"task tag {itt:#x} is in use or reserved")
            return
        if self._draining:
            self._draining.pop(itt, None)
        try:
            task = self.execution.start(pdu, bhs)
        except PduError as error:
            self._refuse(pdu, error.reason, str(error))
            return
        if not task.ended:
            self.tasks[itt] = task
        elif task.unsolicited:
            self._drain(task)

    def finish(self, task: Task, done: Done, length: int) -> None:
        """A task has a status: send its response.  ``length`` is what the CDB asked to move, in bytes."""
        bhs = task.bhs
        edtl = bhs.edtl
        if done.status != Status.GOOD:
            length = 0
        flags, residual = FINAL, 0
        if length < edtl:
            flags, residual = FINAL | RESPONSE_UNDERFLOW, edtl - length
        elif length > edtl:
            flags, residual = FINAL | RESPONSE_OVERFLOW, length - edtl
        if self.tasks.pop(bhs.itt, None) is not None and task.unsolicited:
            self._drain(task)
        self._end(bhs)
        counters = self._counters.get(bhs.lun) or self._count(bhs.lun)
        counters.finished(task.started, done.status, min(length, edtl), bool(bhs.flags & COMMAND_WRITE))
        numbers = self._numbers
        sense = done.sense
        response = ScsiResponse(
            0x21,
            flags,
            0,
            done.status,
            0,
            0,
            bhs.itt,
            0,
            numbers.next_stat_sn(),
            numbers.exp_cmd_sn,
            numbers.max_cmd_sn,
            0,
            0,
            residual,
        )
        self._datamover.send_control(Pdu(response, len(sense).to_bytes(2, "big") + sense if sense else b""))

    @property
    def window(self) -> tuple[int, int]:
        """The commands that the session may have outstanding, and how many more the initiator may send now."""
        numbers = self._numbers
        return numbers.depth, (numbers.max_cmd_sn - numbers.exp_cmd_sn + 1) & 0xFFFFFFFF

    def _count(self, field: int) -> LunCounters:
        """The counters of a LUN field.  Those that name no unit share one, or a peer could make us keep many."""
        unit = self.unit(field)
        if unit is None:
            return self.counters.setdefault(None, LunCounters())
        counters = self.counters.setdefault(self._owner.number_of(self, unit), LunCounters())
        self._counters[field] = counters
        return counters

    def move(self, device: TargetDevice) -> None:
        """The session's initiator sees ``device`` from now on."""
        if self.execution:
            self.execution.move(device)
        self._counters.clear()  # a LUN field may mean another unit now
        if self._quick:
            self._quick.forget_units()

    def quick_unit(self, lun: int) -> tuple[LogicalUnit, LunCounters] | None:
        """See :class:`target.quick.QuickWayUser`."""
        unit = self.unit(lun)
        return (unit, self._counters.get(lun) or self._count(lun)) if unit is not None else None

    def unit(self, lun: int) -> LogicalUnit | None:
        """The logical unit that a LUN field means in this session."""
        return self.execution.unit(lun) if self.execution else None

    def tasks_where(self, wanted: Callable[[ScsiCommand], bool]) -> list[Task]:
        """The tasks that a task management function finds; those that are ending have to be waited for."""
        return [task for task in (*self.tasks.values(), *self.ending) if wanted(task.bhs)]

    def drop(self, tasks: list[Task], done: Callable[[], None]) -> None:
        """Abort ``tasks``, which are ours, and call ``done`` when the last of them uses no memory any more."""
        left = len(tasks)

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for task in tasks:
            task.waiters = [*(task.waiters or ()), one_ended]
            self._drop(task)

    def _drop(self, task: Task) -> None:
        itt = task.bhs.itt
        ours = self.tasks.get(itt) is task
        if ours:
            del self.tasks[itt]
            self._end(task.bhs)
            self._count(task.bhs.lun).aborted += 1
            if task.unsolicited:
                self._drain(task)
        assert self.execution
        self.execution.abort(task)
        if not task.ended and task not in self.ending:
            self.ending.add(task)
            task.waiters = [*(task.waiters or ()), partial(self.ending.discard, task)]
        if ours:
            # Last: over TCP this ends the transfers of the task, and with them the task.
            self._datamover.deallocate_task_resources(itt)

    def _end(self, bhs: ScsiCommand) -> None:
        if bhs.opcode & IMMEDIATE:
            self._immediate -= 1
        else:
            self._numbers.end()

    def _drain(self, task: Task) -> None:
        if len(self._draining) >= MAX_DRAINING:
            self._draining.pop(next(iter(self._draining)))
        self._draining[task.bhs.itt] = task.unsolicited

    def _data_out(self, pdu: Pdu, bhs: DataOut) -> None:
        task = self.tasks.get(bhs.itt)
        if task is None or self.execution is None:
            self._drained(pdu, bhs)
            return
        try:
            if bhs.ttt != RESERVED_TAG or not task.bhs.flags & COMMAND_WRITE:
                raise PduError("the initiator sent a Data-Out that nobody asked for", RejectReason.PROTOCOL_ERROR)
            self.execution.data_out(task, bhs, pdu.data)
        except PduError as error:
            # At error recovery level 0 there is no way back to a task whose data is out of step.
            self._reject(pdu, error.reason, str(error))
            self.close("write data out of step")

    def _drained(self, pdu: Pdu, bhs: DataOut) -> None:
        """Data of a command that has ended already is thrown away, as much as was announced."""
        left = self._draining.pop(bhs.itt, -1) - len(pdu.data)
        if left < 0:
            self._reject(pdu, RejectReason.PROTOCOL_ERROR, "a Data-Out for no task")
        elif left and not bhs.flags & FINAL:
            self._draining[bhs.itt] = left

    # Everything else

    def _task_management(self, pdu: Pdu) -> None:
        bhs = pdu.bhs
        assert type(bhs) is TaskManagementRequest

        def answer(code: int) -> None:
            self._send(TaskManagementResponse(response=code, itt=bhs.itt))

        # The window slot is free at once: the function itself takes none of the memory that the window guards.
        self._slot_over(bhs.opcode)
        self._owner.manage_tasks(self, bhs, answer)

    def _nop(self, pdu: Pdu) -> None:
        bhs = pdu.bhs
        assert type(bhs) is NopOut
        self._slot_over(bhs.opcode)
        if bhs.itt != RESERVED_TAG:
            limit = self.login.params.to_initiator_length
            self._send(NopIn(lun=bhs.lun, itt=bhs.itt), bytes(pdu.data[:limit]))

    def _text_request(self, pdu: Pdu) -> None:
        bhs = pdu.bhs
        assert type(bhs) is TextRequest
        before = self._text.params
        try:
            response = self._text.receive(pdu)
        except PduError as error:
            self._refuse(pdu, error.reason, str(error))
            return
        except IserError as error:
            self._refuse(pdu, RejectReason.PROTOCOL_ERROR, str(error))
            return
        self._slot_over(bhs.opcode)
        self._send(response.bhs, response.data)
        if self._text.params is not before:
            self._datamover.renew_key_values(self._text.params)

    def _logout(self, pdu: Pdu) -> None:
        bhs = pdu.bhs
        assert type(bhs) is LogoutRequest
        reason = bhs.flags & LOGOUT_REASON_MASK
        code = LogoutResponseCode.CLOSED
        if reason == LogoutReason.REMOVE_FOR_RECOVERY:
            code = LogoutResponseCode.RECOVERY_NOT_SUPPORTED
        elif reason == LogoutReason.CLOSE_CONNECTION and bhs.cid != self.login.cid:
            code = LogoutResponseCode.CID_NOT_FOUND
        elif reason > LogoutReason.REMOVE_FOR_RECOVERY:
            self._refuse(pdu, RejectReason.INVALID_PDU_FIELD, f"logout reason {reason} does not exist")
            return
        self._slot_over(bhs.opcode)
        self._send(LogoutResponse(response=code, itt=bhs.itt))
        if code == LogoutResponseCode.CLOSED:
            self.close(f"{self.login.initiator_name} logged out")

    def _slot_over(self, opcode: int) -> None:
        if not opcode & IMMEDIATE:
            self._numbers.end()

    # Answers

    def _send(self, bhs: Any, data: bytes | memoryview = b"") -> None:
        numbers = self._numbers
        numbered = bhs._replace(
            stat_sn=numbers.next_stat_sn(), exp_cmd_sn=numbers.exp_cmd_sn, max_cmd_sn=numbers.max_cmd_sn
        )
        self._datamover.send_control(Pdu(numbered, data))

    def _refuse(self, pdu: Pdu, reason: int, why: str) -> None:
        """Reject a request; a number that it had is not taken as received (RFC 7143 section 7.3)."""
        bhs = pdu.bhs
        self._forget_tags(bhs.itt)
        if not bhs.opcode & IMMEDIATE:
            self._numbers.undo()
        elif type(bhs) is ScsiCommand:
            self._immediate -= 1
        self._reject(pdu, reason, why)

    def _reject(self, pdu: Pdu, reason: int, why: str) -> None:
        log.info("%s: rejecting a %s: %s", self.name, type(pdu.bhs).__name__, why)
        self._send_reject(reason, encode_bhs(pdu.bhs))

    def _send_reject(self, reason: int, bhs: bytes) -> None:
        self._send(Reject(reason=reason), bhs)
