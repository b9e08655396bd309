"""The initiator's side of the TCP datamover: Data-In into the caller's buffers, Data-Out for the target's R2Ts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from iser.datamover.api import DatamoverUser, InitiatorDatamover, TaskBuffers
from iser.datamover.tcp.endpoint import MAX_DROPPED, TcpEndpoint
from iser.datamover.tcp.rx import discarded
from iser.datamover.tcp.tx import DataOuts
from iser.datamover.tcp.wire import DATA_IN_OPCODE
from iser.errors import ConnectionFailed, LocalProtocolError, RemoteProtocolError
from iser.login import NegotiatedParameters
from iser.net import StreamTimes, dial, display, resolve, why_not
from iser.pdu import (
    DATA_IN_STATUS,
    FINAL,
    R2T,
    RESPONSE_UNDERFLOW,
    DataIn,
    Pdu,
    ScsiResponse,
    build_ahs,
    encode_bhs,
)
from iser.sg import RegistrationCounters
from iser.sg.cursor import Cursor

__all__ = ["TcpInitiator"]

_MASK: Final = 0xFFFFFFFF
_RESIDUAL_BITS: Final = 0x06  # O and U stand in the same place in a Data-In and in a SCSI Response


class _Task:
    """The buffers of a command, and how far the target got."""

    __slots__ = ("data_sn", "edtl", "r2t_sn", "read", "read_length", "received", "write")

    def __init__(self, read: Cursor | None, read_length: int, write: Cursor | None, edtl: int) -> None:
        self.read = read
        self.read_length = read_length
        self.write = write
        self.edtl = edtl
        self.received = 0
        self.data_sn = 0
        self.r2t_sn = 0


class TcpInitiator(TcpEndpoint, InitiatorDatamover):
    """See :class:`InitiatorDatamover`.  Made by :meth:`connect`."""

    def __init__(self, user: DatamoverUser) -> None:
        super().__init__(user, DATA_IN_OPCODE)
        self._tasks: dict[int, _Task] = {}
        self._dropped: deque[int] = deque(maxlen=MAX_DROPPED)
        self._exp_stat_sn = 0
        self.counters = RegistrationCounters()
        self.remote_invalidate = False  # there are no keys
        #: RDMA operations on our memory: over TCP nobody can tell of any.
        self.remote_operations: int | None = None

    @classmethod
    async def connect(
        cls, host: str, port: int, user: DatamoverUser, timeout: float, times: StreamTimes | None = None
    ) -> TcpInitiator:
        """Connect to a portal, ready to send the first login request.  Raises ConnectionFailed."""
        self = cls(user)
        where = display((host, port))
        try:
            async with asyncio.timeout(timeout):
                sock = await dial(await resolve(host, port), 0)
        except TimeoutError:
            raise ConnectionFailed(f"{where} did not answer within {timeout:g} s; is an iSCSI target there?") from None
        except OSError as error:
            raise ConnectionFailed(f"cannot connect to {where}: {why_not(error)}") from error
        self.attach(sock, times)
        return self

    def send_command(self, pdu: Pdu, buffers: TaskBuffers) -> None:
        """See :class:`InitiatorDatamover`."""
        self._require_open()
        bhs: Any = pdu.bhs
        itt = bhs.itt
        if itt in self._tasks:
            raise LocalProtocolError(f"{self.name}: task {itt:#x} is still in use; give each task a tag of its own")
        data_in, data_out, immediate = buffers.data_in, buffers.data_out, buffers.immediate_data_size
        header = encode_bhs(bhs) + (build_ahs(pdu.ahs) if pdu.ahs else b"")
        read = Cursor(data_in.views) if data_in is not None else None
        write = Cursor(data_out.views) if data_out is not None else None
        pieces = write.take(immediate) if write is not None else []
        if write is not None and buffers.unsolicited_data_size > immediate:
            write.take(buffers.unsolicited_data_size - immediate)  # the caller sends these
        if read is not None or write is not None:
            self._tasks[itt] = _Task(read, data_in.length if data_in is not None else 0, write, bhs.edtl)
        self._tx.command(header, pieces, immediate)
        self.counters.commands += 1
        self._stream.wake()

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`."""
        task = self._tasks.pop(itt, None)
        if task is not None:
            self._dropped.append(itt)
            self._rx.redirect(itt=itt)
            self._tx.drop_data_outs(itt)

    # Reads

    def destination(self, bhs: DataIn) -> Sequence[memoryview] | None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`."""
        task = self._tasks.get(bhs.itt)
        length = bhs.data_segment_length
        if task is None:
            if bhs.itt in self._dropped:
                return discarded(length)
            raise RemoteProtocolError(f"the target sent data to task {bhs.itt:#x}, which does not exist")
        if task.read is None:
            raise RemoteProtocolError(f"the target sent data to task {bhs.itt:#x}, which reads none")
        received = task.received
        if bhs.data_sn != task.data_sn or bhs.buffer_offset != received or received + length > task.read_length:
            raise RemoteProtocolError(
                f"the target sent a Data-In out of place: DataSN {bhs.data_sn}, offset {bhs.buffer_offset}, {length} "
                f"bytes; expected {task.data_sn}, {received} and up to {task.read_length - received}"
            )
        task.data_sn = (task.data_sn + 1) & _MASK
        task.received = received + length
        return task.read.take(length)

    def placed(self, bhs: DataIn) -> None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`; the last Data-In may bring the status."""
        if not bhs.flags & DATA_IN_STATUS:
            return
        response = ScsiResponse(
            0x21,
            FINAL | bhs.flags & _RESIDUAL_BITS,
            0,
            bhs.status,
            0,
            0,
            bhs.itt,
            0,
            bhs.stat_sn,
            bhs.exp_cmd_sn,
            bhs.max_cmd_sn,
            0,
            0,
            bhs.residual,
        )
        self._respond(Pdu(response), response)

    def _respond(self, pdu: Pdu, bhs: ScsiResponse) -> None:
        self._exp_stat_sn = (bhs.stat_sn + 1) & _MASK
        task = self._tasks.pop(bhs.itt, None)
        if task is not None:
            if task.read is not None and not (bhs.response or bhs.status):
                missing = bhs.residual if bhs.flags & RESPONSE_UNDERFLOW else 0
                if task.received + missing < task.read_length:
                    raise RemoteProtocolError(
                        f"the target called task {bhs.itt:#x} done after {task.received} of {task.read_length} bytes"
                    )
            self._tx.drop_data_outs(bhs.itt)
        self._user.control_notify(pdu)

    # Writes

    def _ready_to_transfer(self, bhs: R2T) -> None:
        self._exp_stat_sn = bhs.stat_sn  # it tells the next one and takes none
        task = self._tasks.get(bhs.itt)
        if task is None:
            if bhs.itt in self._dropped:
                return
            raise RemoteProtocolError(f"the target asked for data of task {bhs.itt:#x}, which does not exist")
        write, length, offset = task.write, bhs.desired_data_transfer_length, bhs.buffer_offset
        burst = self._params.max_burst_length
        if write is None:
            raise RemoteProtocolError(f"the target asked for data of task {bhs.itt:#x}, which writes none")
        if (
            bhs.r2t_sn != task.r2t_sn
            or offset != write.offset
            or not 0 < length <= burst
            or offset + length > task.edtl
        ):
            raise RemoteProtocolError(
                f"the target sent an R2T out of place: R2TSN {bhs.r2t_sn}, offset {offset}, {length} bytes; expected "
                f"{task.r2t_sn}, {write.offset} and up to {min(task.edtl - write.offset, burst)}"
            )
        task.r2t_sn += 1
        self._tx.queue.append(
            DataOuts(bhs.lun, bhs.itt, bhs.ttt, write.take(length), length, offset, self._exp_stat_sn)
        )
        self._stream.wake()

    # The shared part's questions

    def pdu_received(self, pdu: Pdu) -> None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`."""
        bhs = pdu.bhs
        kind = type(bhs)
        if kind is ScsiResponse:
            self._respond(pdu, bhs)  # type: ignore[arg-type]  # type() is twice as fast as isinstance here
        elif kind is R2T:
            self._ready_to_transfer(bhs)  # type: ignore[arg-type]
        elif kind is DataIn:
            self.destination(bhs)  # type: ignore[arg-type]  # without data
            self.placed(bhs)  # type: ignore[arg-type]
        else:
            self._user.control_notify(pdu)

    def _segments(self, params: NegotiatedParameters) -> tuple[int, int]:
        return params.max_recv_data_segment_length_initiator, params.max_recv_data_segment_length_target

    def _free_tasks(self) -> None:
        self._tasks.clear()
