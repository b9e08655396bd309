"""The target's side of the TCP datamover: Data-In sequences for read data, R2Ts and Data-Outs for write data."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

from iser.datamover.api import QuickStart, TargetDatamover, TargetDatamoverUser
from iser.datamover.tcp.endpoint import CLOSED, MAX_DROPPED, TcpEndpoint
from iser.datamover.tcp.rx import discarded
from iser.datamover.tcp.tx import Put
from iser.datamover.tcp.wire import (
    DATA_IN,
    DATA_IN_OPCODE,
    DATA_OUT_OPCODE,
    SCSI_RESPONSE,
    SCSI_RESPONSE_OPCODE,
    digest,
)
from iser.errors import PduError
from iser.login import NegotiatedParameters
from iser.net import StreamTimes
from iser.pdu import (
    COMMAND_WRITE,
    DATA_IN_STATUS,
    FINAL,
    R2T,
    RESERVED_TAG,
    DataOut,
    NopIn,
    Pdu,
    RejectReason,
    ScsiCommand,
    ScsiResponse,
    encode_bhs,
)
from iser.sg.cursor import Cursor

__all__ = ["TcpTarget"]

_MASK: Final = 0xFFFFFFFF
_CRC32C: Final = "CRC32C"
_WITH_STATUS: Final = FINAL | DATA_IN_STATUS


class _Get:
    """A ``get_data``: ``length`` bytes for ``cursor``, of which ``asked`` were asked for and ``arrived`` are here."""

    __slots__ = ("arrived", "asked", "bursts", "cursor", "itt", "length", "lun", "offset", "sn")

    def __init__(self, lun: int, itt: int, cursor: Cursor, length: int, offset: int, sn: int) -> None:
        self.lun = lun
        self.itt = itt
        self.cursor = cursor
        self.length = length
        self.offset = offset
        self.sn = sn
        self.asked = 0
        self.arrived = 0
        self.bursts = 0  # R2Ts outstanding


class _Burst:
    """An R2T outstanding.  ``get`` is None once nobody wants its data."""

    __slots__ = ("cursor", "data_sn", "get", "itt", "left", "offset")

    def __init__(self, get: _Get, cursor: Cursor, offset: int, length: int) -> None:
        self.get: _Get | None = get
        self.itt = get.itt
        self.cursor = cursor
        self.offset = offset
        self.left = length
        self.data_sn = 0


class TcpTarget(TcpEndpoint, TargetDatamover):
    """See :class:`TargetDatamover`.  :meth:`attach` comes first of all.

    ExpCmdSN and MaxCmdSN of Data-In and R2T are those of the response that was sent last: they may lag, but never lie.
    """

    def __init__(self, user: TargetDatamoverUser) -> None:
        super().__init__(user, DATA_OUT_OPCODE)
        self._target_user = user
        self._puts: dict[int, Put] = {}  # the latest of each task
        self._gets: dict[int, list[_Get]] = {}
        self._r2t_sn: dict[int, int] = {}  # R2Ts sent, by task
        self._luns: dict[int, int] = {}  # LUN fields of writes, but for LUN 0
        self._bursts: dict[int, _Burst] = {}  # by target transfer tag
        self._last_ttt = 0
        self._stat_sn = 0  # the next
        self._exp_cmd_sn = 0
        self._max_cmd_sn = 0
        self.quick = self
        self.quick_limit = 0

    def accept(self, sock: socket.socket, times: StreamTimes | None = None) -> None:
        """Serve a connection that was accepted."""
        self.attach(sock, times)

    def can_put(self, itt: int) -> bool:
        """See :class:`TargetDatamover`.  Over TCP there is no buffer to advertise."""
        del itt
        return True

    def can_get(self, itt: int) -> bool:
        """See :class:`TargetDatamover`.  As above."""
        del itt
        return True

    def put_data(self, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool) -> None:
        """See :class:`TargetDatamover`.  ``data_sn`` only names the call; the PDUs are numbered per task."""
        if self.state is CLOSED:
            self._require_open()
        length = len(views[0]) if len(views) == 1 else sum(map(len, views))
        earlier = self._puts.get(itt)
        first = earlier.data_sn + self._tx.data_pdus(earlier.length) if earlier is not None else 0
        self._puts[itt] = put = Put(
            itt, views, length, offset, first, self._exp_cmd_sn, self._max_cmd_sn, (itt, data_sn) if notify else None
        )
        self._tx.queue.append(put)
        self._stream.wake()

    def get_data(self, itt: int, views: Sequence[memoryview], offset: int, r2t_sn: int) -> None:
        """See :class:`TargetDatamover`."""
        self._require_open()
        get = _Get(self._luns.get(itt, 0), itt, Cursor(views), sum(map(len, views)), offset, r2t_sn)
        self._gets.setdefault(itt, []).append(get)
        self._ask(get)

    def send_control(self, pdu: Pdu) -> None:
        """See :class:`Datamover`; a plain SCSI Response travels with the last of its task's data."""
        if self.state is CLOSED:
            self._require_open()
        bhs: Any = pdu.bhs
        self._exp_cmd_sn, self._max_cmd_sn = bhs.exp_cmd_sn, bhs.max_cmd_sn
        if type(bhs) is ScsiResponse:
            self._stat_sn = (bhs.stat_sn + 1) & _MASK
            itt = bhs.itt
            put = self._puts.pop(itt, None)
            if put is not None and not pdu.data and not bhs.response and self._tx.may_join(put):
                put.response = bhs
                return
            pdu = self._last_words(pdu, bhs, put)
        elif type(bhs) is NopIn and bhs.itt == RESERVED_TAG:
            self._stat_sn = bhs.stat_sn  # it takes no number
        else:
            self._stat_sn = (bhs.stat_sn + 1) & _MASK
        self._tx.pdu(pdu)
        self._stream.wake()

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`.  Data that was asked for is thrown away when it comes; its ``get_data`` are over."""
        self._puts.pop(itt, None)
        gets = self._gets.pop(itt, ())
        self._r2t_sn.pop(itt, None)
        self._luns.pop(itt, None)
        if not gets:
            return
        for burst in self._bursts.values():
            if burst.get in gets:
                burst.get = None
        self._rx.redirect(itt=itt)
        self._forget_dropped()
        for get in gets:
            self._target_user.data_completion_notify(itt, get.sn)

    # The short way

    def serve_quickly(self, start: QuickStart) -> None:
        """See :class:`iser.datamover.api.QuickPath`."""
        self._rx.quick = start

    def quick_read(
        self,
        itt: int,
        views: Sequence[memoryview],
        length: int,
        stat_sn: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        data_sn: int,
    ) -> None:
        """See :class:`iser.datamover.api.QuickPath`.  The stream is awake, for it is reading."""
        self._stat_sn, self._exp_cmd_sn, self._max_cmd_sn = (stat_sn + 1) & _MASK, exp_cmd_sn, max_cmd_sn
        notify = (itt, data_sn) if data_sn else None
        header = DATA_IN.pack(
            DATA_IN_OPCODE, _WITH_STATUS, 0, length, 0, itt, RESERVED_TAG, stat_sn, exp_cmd_sn, max_cmd_sn, 0, 0, 0
        )
        if not self._tx.quick(header, views, length, notify):
            put = Put(itt, views, length, 0, 0, exp_cmd_sn, max_cmd_sn, notify)
            put.response = ScsiResponse(itt=itt, stat_sn=stat_sn, exp_cmd_sn=exp_cmd_sn, max_cmd_sn=max_cmd_sn)
            self._tx.queue.append(put)

    def quick_good(self, itt: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """See :class:`iser.datamover.api.QuickPath`."""
        self._stat_sn, self._exp_cmd_sn, self._max_cmd_sn = (stat_sn + 1) & _MASK, exp_cmd_sn, max_cmd_sn
        response = SCSI_RESPONSE.pack(
            SCSI_RESPONSE_OPCODE, FINAL, 0, 0, 0, itt, 0, stat_sn, exp_cmd_sn, max_cmd_sn, 0, 0, 0
        )
        if self._tx.header_digest:
            response += digest(response)
        self._tx.queue.append(response)

    # Writes

    def _ask(self, get: _Get) -> None:
        """Send as many R2Ts as may be outstanding."""
        params = self._params
        while get.asked < get.length and get.bursts < params.max_outstanding_r2t:
            length = min(params.max_burst_length, get.length - get.asked)
            offset = get.offset + get.asked
            self._last_ttt = ttt = (self._last_ttt + 1) % RESERVED_TAG
            r2t_sn = self._r2t_sn.get(get.itt, 0)
            self._r2t_sn[get.itt] = r2t_sn + 1
            # Each burst has a cursor of its own: with several outstanding their data may come interleaved.
            self._bursts[ttt] = _Burst(get, Cursor(get.cursor.take(length)), offset, length)
            get.asked += length
            get.bursts += 1
            self._tx.pdu(
                Pdu(
                    R2T(
                        lun=get.lun,
                        itt=get.itt,
                        ttt=ttt,
                        stat_sn=self._stat_sn,
                        exp_cmd_sn=self._exp_cmd_sn,
                        max_cmd_sn=self._max_cmd_sn,
                        r2t_sn=r2t_sn,
                        buffer_offset=offset,
                        desired_data_transfer_length=length,
                    )
                )
            )
        self._stream.wake()

    def destination(self, bhs: DataOut) -> Sequence[memoryview] | None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`.  Unsolicited data is the iSCSI layer's."""
        if bhs.ttt == RESERVED_TAG:
            return None
        burst = self._bursts.get(bhs.ttt)
        length = bhs.data_segment_length
        if burst is None or burst.itt != bhs.itt:
            raise self._refused(bhs, f"transfer tag {bhs.ttt:#x}, which task {bhs.itt:#x} was not given")
        get = burst.get
        if get is None:
            return discarded(length)
        left = burst.left
        out_of_place = bhs.data_sn != burst.data_sn or bhs.buffer_offset != burst.offset or length > left
        if out_of_place or bool(bhs.flags & FINAL) != (length == left):
            self._out_of_step(get, bhs, burst)
            return discarded(length)
        return burst.cursor.take(length)

    def placed(self, bhs: DataOut) -> None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`."""
        burst = self._bursts.get(bhs.ttt)
        if burst is None:
            return  # dropped while its data came
        length = bhs.data_segment_length
        burst.data_sn += 1
        burst.offset += length
        burst.left -= length
        get = burst.get
        if burst.left <= 0 or (get is None and bhs.flags & FINAL):
            del self._bursts[bhs.ttt]
        if get is None:
            return
        get.arrived += length
        if burst.left:
            return
        get.bursts -= 1
        if get.asked < get.length:
            self._ask(get)
        elif get.arrived == get.length:
            self._remove(get)
            self._target_user.data_completion_notify(get.itt, get.sn)

    def _out_of_step(self, get: _Get, bhs: DataOut, burst: _Burst) -> None:
        """Data of a task is missing or too much: the task ends, the rest of what it was asked for is thrown away."""
        error = PduError(
            f"the initiator sent a Data-Out with DataSN {bhs.data_sn}, offset {bhs.buffer_offset}, "
            f"{bhs.data_segment_length} bytes and F={bhs.flags >> 7}; expected {burst.data_sn}, {burst.offset}, "
            f"up to {burst.left} and F with the last of them",
            RejectReason.PROTOCOL_ERROR,
        )
        for other in self._bursts.values():
            if other.get is get:
                other.get = None
        self._forget_dropped()
        self._remove(get)
        self._target_user.data_failed_notify(get.itt, get.sn, error)

    def _remove(self, get: _Get) -> None:
        gets = self._gets[get.itt]
        gets.remove(get)
        if not gets:
            del self._gets[get.itt]

    def _refused(self, bhs: DataOut, what: str) -> PduError:
        """Data that no task asked for: at error recovery level 0 nothing can put that right."""
        error = PduError(f"the initiator sent a Data-Out with {what}", RejectReason.PROTOCOL_ERROR)
        self.malformed(error, encode_bhs(bhs))
        return error

    def _forget_dropped(self) -> None:
        dropped = [ttt for ttt, burst in self._bursts.items() if burst.get is None]
        for ttt in dropped[: max(0, len(dropped) - MAX_DROPPED)]:
            del self._bursts[ttt]

    # The shared part's questions

    def pdu_received(self, pdu: Pdu) -> None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`."""
        bhs = pdu.bhs
        if type(bhs) is DataOut and bhs.ttt != RESERVED_TAG:
            # Without data, or it would have had a destination.
            self.destination(bhs)
            self.placed(bhs)
            return
        if type(bhs) is ScsiCommand and bhs.lun and bhs.flags & COMMAND_WRITE:
            self._luns.setdefault(bhs.itt, bhs.lun)
        self._user.control_notify(pdu)

    def _segments(self, params: NegotiatedParameters) -> tuple[int, int]:
        segment = params.max_recv_data_segment_length_initiator
        digests = _CRC32C in {params.header_digest, params.data_digest}
        self.blind = params.data_digest != _CRC32C
        self.quick_limit = 0 if digests else min(segment, params.max_burst_length)
        return params.max_recv_data_segment_length_target, segment

    def _free_tasks(self) -> None:
        self._puts.clear()
        self._gets.clear()
        self._r2t_sn.clear()
        self._luns.clear()
        self._bursts.clear()

    def _moved(self, itt: int, sn: int) -> None:
        self._target_user.data_completion_notify(itt, sn)

    def _last_words(self, pdu: Pdu, bhs: ScsiResponse, put: Put | None) -> Pdu:
        """A response of its own: ExpDataSN is how many Data-In and R2T its task had (RFC 7143 section 11.4.8)."""
        numbered = self._r2t_sn.pop(bhs.itt, 0)
        self._luns.pop(bhs.itt, None)
        if put is not None:
            numbered += put.data_sn + self._tx.data_pdus(put.length)
        return pdu._replace(bhs=bhs._replace(exp_data_sn=numbered)) if numbered and not bhs.response else pdu
