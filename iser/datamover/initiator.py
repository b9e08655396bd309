"""The initiator's side of the iSER datamover: one STag per direction, advertised in the command's iSER header."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from iser.datamover.api import DatamoverState, DatamoverUser, InitiatorDatamover, QuickEnd, TaskBuffers
from iser.datamover.cm import build_private_data, invalidation_offered
from iser.datamover.endpoint import Endpoint, padded
from iser.errors import LocalProtocolError, RemoteProtocolError
from iser.pdu import (
    BHS_LENGTH,
    COMMAND_READ,
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
    TaskAttribute,
    build_ahs,
    build_control,
    encode_bhs,
    padding,
)
from iser.pdu.const import RESPONSE_UNDERFLOW
from iser.rdma.api import ConnectionParams, Device, DeviceCap, LocalInv, Provider, QueuePair, Send, WorkRequest
from iser.sg import Direction, Planner, Registration, RegistrationCounters, SgList
from iser.sg.planner import check_strategy, has_long_lived_keys

__all__ = ["IserInitiator", "IserInitiatorOptions"]

DEFAULT_DEPTH: Final = 128
_READ: Final = CONTROL | RSV
_WRITE: Final = CONTROL | WSV
_BOTH: Final = CONTROL | RSV | WSV

#: An iSER header (flags, write STag and base, read STag and base) and a SCSI Command: opcode, flags, lengths, LUN, ITT,
#: EDTL, CmdSN, ExpStatSN, CDB.
_COMMAND: Final = struct.Struct(">B3xIQIQBBxxIQIIII16s")
_SCSI_COMMAND: Final = ScsiCommand().opcode
_READ_FLAGS: Final = FINAL | COMMAND_READ | TaskAttribute.SIMPLE
#: A plain iSER header and a SCSI Response, whose start is compared; ITT, StatSN, MaxCmdSN, residual.
_RESPONSE: Final = struct.Struct(f">{ISER_HEADER_LENGTH + 8}s8xI4xI4xI8xI")
_GOOD: Final = PLAIN_HEADER + bytes((ScsiResponse().opcode, FINAL, 0, 0, 0, 0, 0, 0))
_BARE: Final = ISER_HEADER_LENGTH + BHS_LENGTH
_READ_DIRECTION: Final = Direction.READ
_CLOSED: Final = DatamoverState.CLOSED


@dataclass(frozen=True, slots=True)
class IserInitiatorOptions:
    """How to connect.

    ``read_depth`` is how many RDMA Reads of the target we serve at once, ``pool_size`` how many lists of each kind are
    registered at once (0: as many as the queue depth can need); commands beyond that wait.
    """

    queue_depth: int = DEFAULT_DEPTH
    remote_invalidate: bool = True
    read_depth: int = 16
    strategy: str = "auto"
    no_bounce: bool = False
    max_bytes: int = 16 << 20
    pool_size: int = 0


#: The registrations of one task, of its read and its write; the peer may invalidate the read's, or else the write's.
_Tags = tuple[Registration | None, Registration | None]


class IserInitiator(Endpoint, InitiatorDatamover):
    """See :class:`InitiatorDatamover`.  Made by :meth:`connect`."""

    def __init__(self, user: DatamoverUser, options: IserInitiatorOptions) -> None:
        super().__init__(user)
        self._options = options
        self._tags: dict[int, _Tags] = {}
        self._planner: Planner
        self.quick = self
        self._quick_end: QuickEnd | None = None

    @classmethod
    async def connect(
        cls,
        provider: Provider,
        host: str,
        port: int,
        user: DatamoverUser,
        options: IserInitiatorOptions,
        timeout: float,
    ) -> IserInitiator:
        """Connect to a portal, ready to send the first login request.  Raises ConnectionFailed."""
        self = cls(user, options)
        try:
            qp, info = await provider.connect(host, port, self._setup, self._connection_params, timeout)
        except BaseException:
            self._release()
            raise
        self.name = qp.name
        self._remote_invalidate = self._may_invalidate(self._device) and invalidation_offered(info.private_data)
        return self

    @property
    def counters(self) -> RegistrationCounters:
        """What registration did so far."""
        return self._planner.counters

    @property
    def device(self) -> Device:
        """The RDMA device underneath."""
        return self._device

    @property
    def remote_operations(self) -> int | None:
        """RDMA operations of the target on our memory so far; None where the device does not tell."""
        return self._qp.remote_operations

    @property
    def planner(self) -> Planner:
        """The planner of this connection's lists."""
        return self._planner

    @property
    def remote_invalidate(self) -> bool:
        """True when the target invalidates our tags with its responses."""
        return self._remote_invalidate

    def send_command(self, pdu: Pdu, buffers: TaskBuffers) -> None:
        """See :class:`InitiatorDatamover`."""
        itt = pdu.bhs.itt
        self._check_tag(itt)
        tags = self._register(buffers)
        if tags is not None:
            self._tags[itt] = tags
        try:
            self._post_command(pdu, buffers, tags)
        except BaseException:
            if tags is not None:
                del self._tags[itt]
                self._unused(tags)
            raise
        counters = self._planner.counters
        counters.commands += 1
        counters.work_requests += 1

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`."""
        tags = self._tags.pop(itt, None)
        if tags is not None:
            self._free(tags, remote=0, transferred=0)

    # The short way

    def answer_quickly(self, end: QuickEnd) -> None:
        """See :class:`iser.datamover.api.QuickCommands`."""
        self._quick_end = end

    def quick_read(self, itt: int, lun: int, cmd_sn: int, exp_stat_sn: int, cdb: bytes, data_in: SgList) -> None:
        """See :class:`iser.datamover.api.QuickCommands`."""
        tasks = self._tags
        if self.state is _CLOSED or itt in tasks:
            self._check_tag(itt)
        planner = self._planner
        read = planner.register(data_in, _READ_DIRECTION)
        try:
            wire = _COMMAND.pack(
                _READ, 0, 0, read.rkey, read.iova,
                _SCSI_COMMAND, _READ_FLAGS, 0, lun, itt, data_in.length, cmd_sn, exp_stat_sn, cdb,
            )  # fmt: skip
            tasks[itt] = read, None
            self._qp.post_send(*read.work, Send(None, (memoryview(wire),), 0, False))
        except BaseException as error:
            tasks.pop(itt, None)
            planner.release(read, 0)
            if isinstance(error, struct.error):
                raise LocalProtocolError(f"{self.name}: a field of a SCSI Command is out of range: {error}") from None
            raise
        counters = planner.counters
        counters.commands += 1
        counters.work_requests += 1

    def _receive(self, message: memoryview, invalidated: int) -> None:
        end = self._quick_end
        if end is None or len(message) != _BARE:
            super()._receive(message, invalidated)
            return
        start, itt, stat_sn, max_cmd_sn, residual = _RESPONSE.unpack_from(message)
        if start != _GOOD or residual or not self._settled(itt, invalidated):
            super()._receive(message, invalidated)
            return
        try:
            end(itt, stat_sn, max_cmd_sn)
        except RemoteProtocolError as error:
            self.abort(error)
        except Exception as error:
            self._stumbled(error, "a response")

    def _settled(self, itt: int, invalidated: int) -> bool:
        """Take back what a task that succeeded had registered, if it is one list or none and no longer valid."""
        tags = self._tags.get(itt)
        if tags is None:
            return not invalidated
        read, write = tags
        planner = self._planner
        if read is not None and write is None:
            if read.rkey != invalidated or not self._remote_invalidate:
                return False
            planner.release(read, read.length)
        elif write is not None and read is None:
            if write.rkey != invalidated or not self._remote_invalidate:
                return False
            planner.release(write, 0)
        else:
            return False
        del self._tags[itt]
        planner.counters.remote_invalidations += 1
        return True

    def _check_tag(self, itt: int) -> None:
        self._check_open()
        if itt in self._tags:
            raise LocalProtocolError(f"{self.name}: task {itt:#x} is still in use; give each task a tag of its own")

    def _may_invalidate(self, device: Device) -> bool:
        """The target may invalidate no key that outlives the command, nor the key of an ordinary memory region."""
        options = self._options
        if not options.remote_invalidate or has_long_lived_keys(check_strategy(options.strategy)):
            return False
        return bool(device.attributes.caps & DeviceCap.MEM_MGT_EXTENSIONS)

    def _connection_params(self, device: Device) -> ConnectionParams:
        options = self._options
        served = min(options.read_depth, device.attributes.max_qp_rd_atom)
        return ConnectionParams(build_private_data(self._may_invalidate(device)), served, initiator_depth=1)

    def _setup(self, device: Device) -> QueuePair:
        options = self._options
        qp = self.setup(device, options.queue_depth)
        self._planner = Planner(
            self._pd,
            device.attributes,
            # A command may hold a region for each direction, and one more while a cancelled command is being aborted.
            options.pool_size or 2 * options.queue_depth,
            strategy=options.strategy,
            no_bounce=options.no_bounce,
            max_bytes=options.max_bytes,
            long_lived_keys=not self._may_invalidate(device),
        )
        return qp

    def _register(self, buffers: TaskBuffers) -> _Tags | None:
        data_in, data_out = buffers.data_in, buffers.data_out
        planner = self._planner
        read = planner.register(data_in, Direction.READ) if data_in is not None and data_in.length else None
        if data_out is None or data_out.length <= buffers.unsolicited_data_size:
            return None if read is None else (read, None)
        try:
            return read, planner.register(data_out, Direction.WRITE)
        except BaseException:
            self._unused((read, None))
            raise

    def _unused(self, tags: _Tags) -> None:
        """Take back what was never valid, or is so no more."""
        for registration in tags:
            if registration is not None:
                self._planner.release(registration, 0)

    def _post_command(self, pdu: Pdu, buffers: TaskBuffers, tags: _Tags | None) -> None:
        work: tuple[WorkRequest, ...] = ()
        header = PLAIN_HEADER
        if tags is not None:
            header, work = _advertised(tags, buffers.unsolicited_data_size)
        wire = header + encode_bhs(pdu.bhs)
        if pdu.ahs:
            wire += build_ahs(pdu.ahs)
        sg: tuple[memoryview, ...] = (memoryview(wire),)
        immediate, data_out = buffers.immediate_data_size, buffers.data_out
        if immediate and data_out is not None:
            self._planner.count_immediate()
            views = data_out.views if immediate == data_out.length else data_out.slice(0, immediate)
            sg = (*sg, *padded(views, padding(immediate)))
        self._qp.post_send(*work, Send(None, sg, 0, False))

    def _received(self, header: IserHeader, pdu: Pdu, invalidated: int) -> None:
        bhs = pdu.bhs
        if type(bhs) is ScsiResponse:
            tags = self._tags.get(bhs.itt)
            if invalidated:
                self._check_invalidated(tags, invalidated)
            if tags is not None:
                del self._tags[bhs.itt]
                self._free(tags, invalidated, _transferred(tags[0], bhs))
        elif invalidated:
            self._check_invalidated(None, invalidated)
        self._user.control_notify(pdu)

    def _check_invalidated(self, tags: _Tags | None, invalidated: int) -> None:
        if not self._remote_invalidate:
            raise RemoteProtocolError(f"the target invalidated STag {invalidated:#010x}, which was not agreed on")
        for registration in tags or ():
            if registration is not None and registration.rkey == invalidated:
                return
        raise RemoteProtocolError(f"the target invalidated STag {invalidated:#010x}, which is not the task's")

    def _free(self, tags: _Tags, remote: int, transferred: int) -> None:
        read, write = tags
        if read is not None:
            self._end(read, remote, transferred)
        if write is not None:
            self._end(write, remote, 0)

    def _end(self, registration: Registration, remote: int, transferred: int) -> None:
        """See to it that the peer can no longer use a key, ``remote`` being the one that it gave up itself."""
        planner = self._planner
        if registration.rkey == remote:
            planner.counters.remote_invalidations += 1
        elif not registration.long_lived:
            self._qp.post_send(LocalInv(None, registration.rkey))
            planner.counters.local_invalidations += 1
            planner.counters.work_requests += 1
        planner.release(registration, transferred)

    def _free_tasks(self, *, flushed: bool) -> None:
        tasks, self._tags = self._tags, {}
        for tags in tasks.values():
            if flushed:
                self._unused(tags)
            else:
                self._free(tags, remote=0, transferred=0)


def _advertised(tags: _Tags, unsolicited: int) -> tuple[bytes, tuple[WorkRequest, ...]]:
    """The iSER header that tells the peer of a task's tags, and what to post ahead of it."""
    read, write = tags
    if write is None:
        assert read is not None
        return build_control((_READ, 0, 0, read.rkey, read.iova)), read.work
    # The base names the first solicited byte, as every peer has it.
    base = write.iova + unsolicited
    if read is None:
        return build_control((_WRITE, write.rkey, base, 0, 0)), write.work
    return build_control((_BOTH, write.rkey, base, read.rkey, read.iova)), (*read.work, *write.work)


def _transferred(read: Registration | None, response: ScsiResponse) -> int:
    """Bytes of read data that a response vouches for."""
    if read is None or response.response or response.status:
        return 0
    if response.flags & RESPONSE_UNDERFLOW:
        return read.length - min(read.length, response.residual)
    return read.length
