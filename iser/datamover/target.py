"""The target's side of the iSER datamover: RDMA Write for read data, RDMA Read for solicited write data."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from iser.datamover.api import QuickStart, TargetDatamover, TargetDatamoverUser
from iser.datamover.cm import build_private_data, invalidation_offered
from iser.datamover.endpoint import EXTRA_RECEIVES, MAX_CONTROL_DATA, Endpoint
from iser.datamover.tcp.wire import SCSI_RESPONSE, SCSI_RESPONSE_OPCODE
from iser.errors import LocalProtocolError, RemoteProtocolError
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    CONTROL,
    FINAL,
    ISER_HEADER_LENGTH,
    PLAIN_HEADER,
    RSV,
    WSV,
    IserHeader,
    Pdu,
    ScsiCommand,
    ScsiResponse,
    encode,
)
from iser.pdu.bhs import BHS_LENGTH
from iser.rdma.api import ConnectionParams, ConnectRequest, RdmaRead, RdmaWrite, Send

__all__ = ["QUICK_LIMIT", "IserTarget"]

QUICK_LIMIT: Final = 1 << 20  # bytes of a read that takes the short way
_ADDRESS_SPACE: Final = 1 << 64
_WORK_PER_PDU: Final = 2

#: An iSER header (flags, write STag and base, read STag and base) and what matters here of the BHS after it: opcode,
#: flags, lengths of AHS and data, ITT, EDTL.
_COMMAND: Final = struct.Struct(">B3xIQIQBBxxI8xII")
#: A plain iSER header and a SCSI Response.
_RESPONSE: Final = struct.Struct(f">{ISER_HEADER_LENGTH}s{SCSI_RESPONSE.format[1:]}")
_SCSI_COMMAND: Final = ScsiCommand().opcode
_DATA: Final = ISER_HEADER_LENGTH + BHS_LENGTH
_PADDING: Final = 3
_READS: Final = CONTROL | RSV
_WRITES: Final = (CONTROL, CONTROL | WSV)


class _Tags(NamedTuple):
    """What a command advertised; ``unsolicited`` bytes of write data come without being asked for."""

    header: IserHeader
    edtl: int
    unsolicited: int


class IserTarget(Endpoint, TargetDatamover):
    """See :class:`TargetDatamover`.  :meth:`accept` comes first of all."""

    def __init__(self, user: TargetDatamoverUser) -> None:
        super().__init__(user)
        self._target_user = user
        self._tags: dict[int, _Tags] = {}
        self.quick = self
        self.quick_limit = QUICK_LIMIT
        self._start: QuickStart | None = None
        self._read = (0, 0)  # the read STag and base of the command that is being started in the short way
        self._stag = 0  # the STag that its response invalidates

    async def accept(
        self, request: ConnectRequest, queue_depth: int, data_receives: int = 0, *, remote_invalidate: bool
    ) -> None:
        """Accept a connection, its first login receives posted.  Raises ConnectionFailed, with nothing left.

        ``data_receives`` is how many receives there may be for unsolicited data beside those for ``queue_depth`` tasks.
        """
        limits = request.device.attributes
        offered = invalidation_offered(request.info.private_data)
        self._remote_invalidate = remote_invalidate and limits.send_with_invalidate and offered
        self.name = "{}:{}".format(*request.info.remote_address)
        # Data and a response for each PDU that can wait for them: a peer that reads never has more coming.
        sends = _WORK_PER_PDU * (queue_depth + EXTRA_RECEIVES)
        params = ConnectionParams(
            build_private_data(self._remote_invalidate),
            responder_resources=min(request.info.responder_resources, limits.max_qp_rd_atom),
            initiator_depth=min(request.info.initiator_depth, limits.max_qp_init_rd_atom),
        )
        qp = self.setup(request.device, queue_depth + data_receives, sends)
        try:
            await request.accept(qp, params)
        except BaseException:
            await self.close()
            raise
        self.name = qp.name

    @property
    def remote_invalidate(self) -> bool:
        """True when responses invalidate the initiator's tags."""
        return self._remote_invalidate

    def can_put(self, itt: int) -> bool:
        """See :class:`TargetDatamover`."""
        tags = self._tags.get(itt)
        return tags is not None and tags.header.flags & RSV != 0

    def can_get(self, itt: int) -> bool:
        """See :class:`TargetDatamover`."""
        tags = self._tags.get(itt)
        return tags is not None and tags.header.flags & WSV != 0

    def put_data(self, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool) -> None:
        """See :class:`TargetDatamover`."""
        header, edtl, _ = self._tags_of(itt, RSV, "read")
        _check_span(itt, offset, views, edtl)
        wr_id = (itt, data_sn) if notify else None
        self._post(RdmaWrite(wr_id, views, header.read_base + offset, header.read_stag, notify))

    def get_data(self, itt: int, views: Sequence[memoryview], offset: int, r2t_sn: int) -> None:
        """See :class:`TargetDatamover`."""
        header, edtl, unsolicited = self._tags_of(itt, WSV, "write")
        _check_span(itt, offset, views, edtl)
        remote = header.write_base + offset - (0 if self._base_is_byte_zero() else unsolicited)
        self._post(RdmaRead((itt, r2t_sn), views, remote, header.write_stag))

    def send_control(self, pdu: Pdu) -> None:
        """See :class:`Datamover`; a SCSI Response invalidates the task's tag where that was agreed."""
        invalidate = 0
        if type(pdu.bhs) is ScsiResponse:
            tags = self._tags.pop(pdu.bhs.itt, None)
            if tags and self._remote_invalidate:
                invalidate = tags.header.read_stag or tags.header.write_stag
        self._send(PLAIN_HEADER + encode(pdu), invalidate=invalidate)

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`."""
        self._tags.pop(itt, None)

    # The short way

    def serve_quickly(self, start: QuickStart) -> None:
        """See :class:`iser.datamover.api.QuickPath`."""
        self._start = start

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
        """See :class:`iser.datamover.api.QuickPath`."""
        del length
        stag, base = self._read
        wr_id = (itt, data_sn) if data_sn else None
        self._answer(RdmaWrite(wr_id, views, base, stag, bool(data_sn)), itt, stat_sn, exp_cmd_sn, max_cmd_sn)

    def quick_good(self, itt: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """See :class:`iser.datamover.api.QuickPath`."""
        self._answer(None, itt, stat_sn, exp_cmd_sn, max_cmd_sn)

    def _answer(self, data: RdmaWrite | None, itt: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        wire = _RESPONSE.pack(
            PLAIN_HEADER, SCSI_RESPONSE_OPCODE, FINAL, 0, 0, 0, itt, 0, stat_sn, exp_cmd_sn, max_cmd_sn, 0, 0, 0
        )
        response = Send(None, (memoryview(wire),), self._stag if self._remote_invalidate else 0, False)
        if data is None:
            self._post(response)
        else:
            self._post(data, response)

    def _receive(self, message: memoryview, invalidated: int) -> None:
        if self._start is None or invalidated or not self._starts_quickly(self._start, message):
            super()._receive(message, invalidated)

    def _starts_quickly(self, start: QuickStart, message: memoryview) -> bool:
        """Have a command carried out in the short way if its PDU is without any fault and names what it needs."""
        if len(message) < _DATA:
            return False
        header, wstag, wbase, rstag, rbase, opcode, flags, length, itt, edtl = _COMMAND.unpack_from(message)
        if (
            opcode != _SCSI_COMMAND
            or length > MAX_CONTROL_DATA  # so has one with AHS
            or not 0 <= len(message) - _DATA - length <= _PADDING
            or itt in self._tags
        ):
            return False
        if flags & COMMAND_READ:
            if header != _READS or flags & COMMAND_WRITE or rbase + edtl > _ADDRESS_SPACE:
                return False
            self._read = (rstag, rbase)
            self._stag = rstag
        elif header in _WRITES and wbase + edtl <= _ADDRESS_SPACE:
            self._stag = wstag if header & WSV else 0
        else:
            return False
        try:
            return start(message, ISER_HEADER_LENGTH, message[_DATA : _DATA + length] if length else b"")
        except RemoteProtocolError as error:
            self.abort(error)
        except Exception as error:
            self._stumbled(error, "a command")
        return True

    def _base_is_byte_zero(self) -> bool:
        """RFC 7145's default, which no peer follows unless it says so (section 6.8 against what is deployed)."""
        return self._params is not None and self._params.tagged_buffer_for_solicited_data_only is False

    def _tags_of(self, itt: int, valid: int, kind: str) -> _Tags:
        tags = self._tags.get(itt)
        if tags is None or not tags.header.flags & valid:
            raise LocalProtocolError(f"{self.name}: task {itt:#x} advertised no {kind} STag")
        return tags

    def _received(self, header: IserHeader, pdu: Pdu, invalidated: int) -> None:
        bhs = pdu.bhs
        if type(bhs) is ScsiCommand and header.flags & (RSV | WSV):
            if max(header.read_base, header.write_base) + bhs.edtl > _ADDRESS_SPACE:
                raise RemoteProtocolError("the initiator sent a buffer that runs over the end of its address space")
            unsolicited = bhs.data_segment_length
            if not bhs.flags & FINAL and self._params is not None:
                unsolicited = min(self._params.first_burst_length, bhs.edtl)
            # A second command under a live tag is refused by the layer above; its buffers must not replace the first's.
            self._tags.setdefault(bhs.itt, _Tags(header, bhs.edtl, unsolicited))
        self._user.control_notify(pdu)

    def _data_completed(self, wr_id: object) -> None:
        itt, sn = cast("tuple[int, int]", wr_id)
        self._target_user.data_completion_notify(itt, sn)

    def _free_tasks(self, *, flushed: bool) -> None:
        self._tags.clear()


def _check_span(itt: int, offset: int, views: Sequence[memoryview], edtl: int) -> None:
    length = sum(map(len, views))
    if offset + length > edtl:
        raise LocalProtocolError(f"task {itt:#x}: bytes {offset} to {offset + length} lie beyond its EDTL of {edtl}")
