"""Carry out SCSI commands: ask the device server for a plan, move the data that it needs, answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from iser.datamover import TargetDatamover
from iser.errors import BackendError, PduError, UsageError
from iser.login import NegotiatedParameters
from iser.net import busy_poll
from iser.pdu import COMMAND_ATTRIBUTE_MASK, COMMAND_READ, COMMAND_WRITE, FINAL, DataOut, Pdu, ScsiCommand, full_cdb
from iser.pdu.const import RejectReason
from iser.scsi.codes import INVALID_INFORMATION_UNIT, LBA_OUT_OF_RANGE, SenseCode
from iser.scsi.const import SenseKey, Status
from iser.scsi.sense import build_sense
from iser.sg import scatter, slice_views
from target.backends.base import Backend
from target.scsi import (
    GOOD,
    Async,
    Done,
    LogicalUnit,
    Nexus,
    Ordered,
    Plan,
    ReadMedia,
    ScsiTask,
    TargetDevice,
    TaskSet,
    WriteMedia,
)
from target.staging import StagingPool
from target.task import Task

__all__ = ["Execution", "Finish"]

log = logging.getLogger("iser.target")

#: Called once for each task that ends with a status: the task, its outcome, and the bytes its CDB asked to move.
Finish = Callable[[Task, Done, int], None]


class Execution:
    """The running commands of one session."""

    def __init__(
        self,
        device: TargetDevice,
        nexus: Nexus,
        datamover: TargetDatamover,
        params: NegotiatedParameters,
        staging: StagingPool,
        finish: Finish,
    ) -> None:
        self._device = device
        self.nexus = nexus
        self._datamover = datamover
        self._params = params
        self._staging = staging
        self._finish = finish
        self._sn = 0
        self._reads: dict[int, Task] = {}
        self._puts: dict[int, memoryview] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._poll = busy_poll()

    def unit(self, lun: int) -> LogicalUnit | None:
        """The logical unit that a LUN field means to this session's initiator."""
        return self._device.unit(lun)

    def move(self, device: TargetDevice) -> None:
        """Go on with ``device``; what runs ends on the units that it began on."""
        device.take_over(self.nexus, self._device)
        self._device = device

    def start(self, pdu: Pdu, bhs: ScsiCommand) -> Task:
        """Begin a command; it may be finished on return.  Raises PduError for one that breaks the session's rules."""
        unsolicited = self._check(bhs, len(pdu.data))
        cdb = full_cdb(bhs, pdu.ahs) if pdu.ahs else bhs.cdb
        scsi = ScsiTask(bhs.lun, cdb, bhs.itt, bhs.flags & COMMAND_ATTRIBUTE_MASK, bhs.edtl, self.nexus)
        plan = self._device.start(scsi)
        task = Task(bhs, scsi, plan, unsolicited)
        task.received = len(pdu.data)
        kind = type(plan)
        if kind is ReadMedia:  # these two here save a call
            self._read(task, plan)  # type: ignore[arg-type]  # type() is twice as fast as isinstance here
        elif kind is WriteMedia:
            self._write(task, plan, pdu.data)  # type: ignore[arg-type]
        else:
            self._carry_out(task, plan, pdu.data)
        return task

    def _carry_out(self, task: Task, plan: Plan, immediate: memoryview | bytes | bytearray) -> None:
        """Begin what ``plan`` says."""
        kind = type(plan)
        if kind is ReadMedia:
            self._read(task, plan)  # type: ignore[arg-type]
        elif kind is WriteMedia:
            self._write(task, plan, immediate)  # type: ignore[arg-type]
        elif kind is Done:
            self._done(task, plan)  # type: ignore[arg-type]
        elif kind is Async:
            self._parameters(task, plan, immediate)  # type: ignore[arg-type]
        else:
            self._order(task, plan, immediate)  # type: ignore[arg-type]

    def _order(self, task: Task, plan: Ordered, immediate: memoryview | bytes | bytearray) -> None:
        """Begin a command now, or when those have ended that it has to wait for; its data may come meanwhile."""
        task.early = bytearray(immediate)
        begin = partial(self._begin, task, plan.lu)
        if TaskSet.of(plan.lu).enter(task, task.scsi.attr, begin):
            begin()

    def _begin(self, task: Task, unit: LogicalUnit) -> None:
        early, task.early = task.early, None
        task.plan = self._device.begin(unit, task.scsi)
        self._carry_out(task, task.plan, early or b"")

    def data_out(self, task: Task, bhs: DataOut, data: memoryview | bytes) -> None:
        """Unsolicited data of a running task.  Raises PduError when it is not what was agreed."""
        length = len(data)
        unasked = task.unsolicited
        if bhs.data_sn != task.data_sn or bhs.buffer_offset != task.received or not unasked or length > unasked:
            raise PduError(
                f"the initiator sent a Data-Out out of place: DataSN {bhs.data_sn}, offset {bhs.buffer_offset}, "
                f"{length} bytes; expected {task.data_sn}, {task.received} and up to {unasked}",
                RejectReason.PROTOCOL_ERROR,
            )
        if task.early is not None:
            task.early += data
        elif task.sink:
            scatter(data, slice_views(task.sink, task.received, task.wanted - task.received))
        task.data_sn += 1
        task.received += length
        task.unsolicited -= length
        if bool(bhs.flags & FINAL) != (task.unsolicited == 0):
            raise PduError(f"the initiator ended its unsolicited data {task.unsolicited} bytes off the agreed length")
        if not task.unsolicited and task.sink:
            self._collected(task)

    def read_at_once(self, backend: Backend, offset: int, length: int) -> tuple[Sequence[memoryview], int] | None:
        """Read into staging memory without waiting: the bytes, and the number to move them with.  None if one had to.

        The memory is given back when the data has moved.
        """
        staging = self._staging.try_take(length)
        if staging is None:
            return None
        views = (staging[:length],)
        if not backend.readv_now(offset, views):
            self._staging.give(staging)
            return None
        self._sn += 1
        self._puts[self._sn] = staging
        return views, self._sn

    def data_completed(self, sn: int) -> None:
        """The data movement numbered ``sn`` is complete."""
        staging = self._puts.pop(sn, None)
        if staging is not None:
            self._staging.give(staging)
            return
        task = self._reads.pop(sn, None)
        if task is not None:
            task.moving = False
            self._collected(task)

    def data_failed(self, sn: int) -> None:
        """The data movement numbered ``sn`` is over without its data: the task ends (RFC 7143 section 11.4.7.2)."""
        task = self._reads.pop(sn)
        task.moving = False
        self._answer(task, self._refused(task, _WRONG_AMOUNT), 0)

    def _refused(self, task: Task, code: SenseCode) -> Done:
        """CHECK CONDITION by the rules of the transport."""
        unit = self._device.unit(task.bhs.lun)
        descriptor = unit is not None and unit.descriptor_sense  # it may be gone since the command came
        return Done(Status.CHECK_CONDITION, build_sense(code, descriptor=descriptor))

    def abort(self, task: Task) -> None:
        """End a task without a response, now or as soon as its memory is no longer in use.

        A read whose backend is slow, or stuck, has ended for everybody else: it moves and changes nothing any more.
        """
        task.aborted = task.scsi.aborted = True  # a plan that runs for long looks at the latter
        if task.waiting is not None:
            task.waiting.cancel()
        if not task.busy:
            self._end(task)
        elif type(task.plan) is ReadMedia:
            self._tell(task)

    def connection_lost(self) -> None:
        """The queue pair is flushed: nothing moves any more."""
        reads, self._reads = self._reads, {}
        for task in reads.values():
            task.moving = False
            self.abort(task)
        puts, self._puts = self._puts, {}
        for memory in puts.values():
            self._staging.give(memory)

    async def idle(self) -> None:
        """Wait for the coroutines that work for tasks."""
        if self._jobs:
            await asyncio.wait(self._jobs)

    def _check(self, bhs: ScsiCommand, immediate: int) -> int:
        """The bytes of write data that come unasked after this PDU with its ``immediate`` ones."""
        flags, edtl = bhs.flags, bhs.edtl
        if flags & COMMAND_READ and flags & COMMAND_WRITE:
            raise PduError("the initiator sent a bidirectional command, which no device here has", _FIELD)
        if edtl and not flags & (COMMAND_READ | COMMAND_WRITE):
            raise PduError(f"the initiator sent EDTL {edtl} with neither the R nor the W bit", _FIELD)
        burst = min(self._params.first_burst_length, edtl) if flags & COMMAND_WRITE else 0
        if immediate and (not self._params.immediate_data or immediate > burst):
            raise PduError(f"the initiator sent {immediate} bytes of immediate data against what was agreed", _PROTOCOL)
        if flags & FINAL:
            self._check_tags(bhs, immediate)
            return 0
        if self._params.initial_r2t or not burst:
            raise PduError("the initiator announced unsolicited data although InitialR2T=Yes", _PROTOCOL)
        self._check_tags(bhs, burst)
        return burst - immediate

    def _check_tags(self, bhs: ScsiCommand, unasked: int) -> None:
        """Each direction that data moves in needs a tag; write data that comes unasked needs none."""
        itt = bhs.itt
        if bhs.flags & COMMAND_READ and bhs.edtl and not self._datamover.can_put(itt):
            raise PduError(f"the initiator sent a read of {bhs.edtl} bytes without a buffer for them", _PROTOCOL)
        if bhs.flags & COMMAND_WRITE and bhs.edtl > unasked and not self._datamover.can_get(itt):
            raise PduError(f"the initiator sent a write of {bhs.edtl} bytes without their buffer", _PROTOCOL)

    # Reads

    def _read(self, task: Task, plan: ReadMedia) -> None:
        bhs = task.bhs
        if bhs.flags & COMMAND_WRITE:  # who announces a write expects no byte of a read, so none moves
            self._answer(task, GOOD, 0)
            return
        length = min(plan.length, bhs.edtl)
        if not length:
            self._answer(task, GOOD, plan.length)
            return
        backend = plan.lu.backend
        views = backend.views(plan.offset, length)
        if views is None and self._datamover.blind:
            views = backend.lend(plan.offset, length)
        if views is not None:
            self._datamover.put_data(bhs.itt, views, 0, 0, notify=False)
            self._answer(task, GOOD, plan.length)
            return
        task.staging = staging = self._staging.try_take(length)
        if staging is not None and backend.readv_now(plan.offset, (staging[:length],)):
            self._put_staged(task, plan, staging, length)
        else:
            self._spawn(task, self._read_staged(task, plan, length))

    async def _read_staged(self, task: Task, plan: ReadMedia, length: int) -> None:
        if task.staging is None:
            task.staging = await self._take(task, length)
        staging = task.staging
        await plan.lu.backend.readv(plan.offset, [staging[:length]])
        if not task.aborted:
            self._put_staged(task, plan, staging, length)

    def _put_staged(self, task: Task, plan: ReadMedia, staging: memoryview, length: int) -> None:
        """Send what is in ``staging``, which is given back when it has gone, and the status."""
        self._sn += 1
        self._datamover.put_data(task.bhs.itt, [staging[:length]], 0, self._sn, notify=True)
        self._puts[self._sn] = staging
        task.staging = None
        self._answer(task, GOOD, plan.length)

    async def _take(self, task: Task, length: int) -> memoryview:
        """Staging memory for a task, which may be aborted while it waits."""
        task.waiting = asyncio.current_task()
        try:
            return await self._staging.take(length)
        finally:
            task.waiting = None

    # Writes

    def _write(self, task: Task, plan: WriteMedia, immediate: memoryview | bytes | bytearray) -> None:
        bhs = task.bhs
        if bhs.flags & COMMAND_READ:
            self._answer(task, plan.lu.check(INVALID_INFORMATION_UNIT), 0)
            return
        length = min(plan.length, bhs.edtl)
        length -= length % plan.lu.backend.block_size
        if not length:
            self._answer(task, GOOD, plan.length)
            return
        task.wanted = length
        backend = plan.lu.backend
        views = backend.views(plan.offset, length)
        if views is not None:
            self._collect(task, views, immediate)
        elif (
            len(immediate) == length
            and not task.unsolicited
            and backend.writev_now(plan.offset, (immediate,), plan.fua)
        ):
            self._answer(task, GOOD, plan.length)
        else:
            self._stage(task, length, immediate)

    def _stage(self, task: Task, length: int, immediate: memoryview | bytes | bytearray) -> None:
        """Collect ``length`` bytes in staging memory, as soon as there is some."""
        task.staging = self._staging.try_take(length)
        if task.staging is not None:
            self._collect(task, [task.staging[:length]], immediate)
            return
        task.early = bytearray(immediate)
        self._spawn(task, self._wait_for_staging(task, length))

    async def _wait_for_staging(self, task: Task, length: int) -> None:
        task.staging = staging = await self._take(task, length)
        early, task.early = task.early, None
        self._collect(task, [staging[:length]], early or b"")

    def _parameters(self, task: Task, plan: Async, immediate: memoryview | bytes | bytearray) -> None:
        if plan.data_out_length and task.bhs.flags & COMMAND_READ:
            self._answer(task, self._refused(task, INVALID_INFORMATION_UNIT), 0)
            return
        length = min(plan.data_out_length, task.bhs.edtl)
        task.wanted = length
        if not length:
            self._spawn(task, self._run(task, plan))
            return
        self._stage(task, length, immediate)

    def _collect(self, task: Task, sink: Sequence[memoryview], immediate: memoryview | bytes | bytearray) -> None:
        """Fetch the ``wanted`` bytes into ``sink``; all that comes unasked precedes what is asked for."""
        task.sink = sink
        if immediate:
            scatter(immediate, sink)
        unasked = task.received + task.unsolicited
        rest = task.wanted - unasked
        if rest > 0:
            self._sn += 1
            self._reads[self._sn] = task
            task.moving = True
            self._datamover.get_data(
                task.bhs.itt, slice_views(sink, unasked, rest) if unasked else sink, unasked, self._sn
            )
        elif not task.unsolicited:
            self._collected(task)

    def _collected(self, task: Task) -> None:
        if task.moving or (task.unsolicited and not task.aborted):
            return
        if task.aborted:
            if not task.busy:
                self._end(task)
            return
        plan = task.plan
        if isinstance(plan, Async):
            assert task.staging is not None
            task.scsi.data_out = task.staging[: task.wanted]
            self._spawn(task, self._run(task, plan))
        elif isinstance(plan, WriteMedia):
            self._stored(task, plan)

    def _stored(self, task: Task, plan: WriteMedia) -> None:
        """Answer when the data is where it belongs: at once if that takes no waiting."""
        staging = task.staging
        if staging is None:
            now = not plan.fua
        else:
            now = plan.lu.backend.writev_now(plan.offset, (staging[: task.wanted],), plan.fua)
        if now:
            self._answer(task, GOOD, plan.length)
        else:
            self._spawn(task, self._store(task, plan))

    async def _store(self, task: Task, plan: WriteMedia) -> None:
        backend = plan.lu.backend
        if task.staging is None:
            await backend.flush()
        else:
            await backend.writev(plan.offset, [task.staging[: task.wanted]], plan.fua)
        self._answer(task, GOOD, plan.length)

    # Ends

    async def _run(self, task: Task, plan: Async) -> None:
        self._done(task, await plan.run(), plan.data_out_length)

    def _done(self, task: Task, done: Done, data_out_length: int = 0) -> None:
        data = done.data_in
        if not data or task.aborted:
            self._answer(task, done, data_out_length)
            return
        bhs = task.bhs
        if bhs.flags & COMMAND_READ and bhs.edtl:
            self._datamover.put_data(bhs.itt, [memoryview(data)[: min(len(data), bhs.edtl)]], 0, 0, notify=False)
        self._answer(task, done, 0 if bhs.flags & COMMAND_WRITE else len(data))

    def _answer(self, task: Task, done: Done, length: int) -> None:
        if task.aborted or task.ended:
            return
        self._release(task)
        task.ended = True
        self._finish(task, done, length)
        if task.waiters is not None:
            self._tell(task)

    def _end(self, task: Task) -> None:
        """An aborted task's last breath."""
        self._release(task)
        self._tell(task)

    def _tell(self, task: Task) -> None:
        """A task that is over in everybody's eyes: tell those who wait for that, once."""
        task.ended = True
        waiters, task.waiters = task.waiters, None
        for waiter in waiters or ():
            waiter()

    def _release(self, task: Task) -> None:
        task.sink = ()
        if task.staging is not None:
            self._staging.give(task.staging)
            task.staging = None

    def _spawn(self, task: Task, work: Coroutine[Any, Any, None]) -> None:
        task.running += 1
        job = asyncio.get_running_loop().create_task(self._guard(task, work))
        self._jobs.add(job)
        self._poll.held += 1
        job.add_done_callback(self._job_done)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        self._poll.held -= 1

    async def _guard(self, task: Task, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``; a backend's fault becomes sense data, and one of ours ends the command and not the session."""
        try:
            await work
        except BackendError as error:
            log.warning("%s: task %#x: %s", self._datamover.name, task.bhs.itt, error)
            plan = task.plan
            assert isinstance(plan, ReadMedia | WriteMedia)  # other plans map such errors themselves
            self._answer(task, plan.lu.complete_error(error, isinstance(plan, WriteMedia)), 0)
        except UsageError as error:
            log.info("%s: task %#x: the LUN shrank meanwhile: %s", self._datamover.name, task.bhs.itt, error)
            self._answer(task, self._refused(task, LBA_OUT_OF_RANGE), 0)
        except Exception:
            log.exception("%s: task %#x: internal error", self._datamover.name, task.bhs.itt)
            self._answer(task, Done(Status.TASK_ABORTED), 0)
        finally:
            task.running -= 1
            if task.aborted and not task.busy:
                self._end(task)


_WRONG_AMOUNT: Final = SenseCode(SenseKey.ABORTED_COMMAND, 0x0C, 0x0D)  # not enough unsolicited data, or out of step
_FIELD: Final = RejectReason.INVALID_PDU_FIELD
_PROTOCOL: Final = RejectReason.PROTOCOL_ERROR
