"""The initiator's side of the iSER datamover: one STag per direction, advertised in the command's iSER header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from iser.datamover.api import DatamoverUser, InitiatorDatamover, TaskBuffers
from iser.datamover.cm import build_private_data, invalidation_offered
from iser.datamover.endpoint import Endpoint, padded
from iser.errors import LocalProtocolError, RemoteProtocolError
from iser.pdu import (
    CONTROL,
    RSV,
    WSV,
    IserHeader,
    Pdu,
    ScsiResponse,
    build_ahs,
    build_header,
    encode_bhs,
    padding,
)
from iser.pdu.const import RESPONSE_UNDERFLOW
from iser.rdma.api import ConnectionParams, Device, DeviceCap, LocalInv, Provider, QueuePair, Send, WorkRequest
from iser.sg import Direction, Planner, Registration, RegistrationCounters
from iser.sg.planner import check_strategy, has_long_lived_keys

__all__ = ["IserInitiator", "IserInitiatorOptions"]

DEFAULT_DEPTH: Final = 128


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


class _Tags(NamedTuple):
    """The registrations of one task; the remote end may invalidate the read's, or else the write's."""

    read: Registration | None
    write: Registration | None
    edtl: int


class IserInitiator(Endpoint, InitiatorDatamover):
    """See :class:`InitiatorDatamover`.  Made by :meth:`connect`."""

    def __init__(self, user: DatamoverUser, options: IserInitiatorOptions) -> None:
        super().__init__(user)
        self._options = options
        self._tags: dict[int, _Tags] = {}
        self._planner: Planner

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
        self._check_open()
        if itt in self._tags:
            raise LocalProtocolError(f"{self.name}: task {itt:#x} is still in use; give each task a tag of its own")
        tags = self._register(buffers)
        if tags:
            self._tags[itt] = tags
        try:
            self._post_command(pdu, buffers, tags)
        except BaseException:
            self._unsent(itt, tags)
            raise
        counters = self.counters
        counters.commands += 1
        counters.work_requests += 1

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`."""
        tags = self._tags.pop(itt, None)
        if tags:
            self._free(tags, remote=0, transferred=0)

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
        solicited = data_out is not None and data_out.length > buffers.unsolicited_data_size
        read = self._planner.register(data_in, Direction.READ) if data_in is not None and data_in.length else None
        try:
            write = self._planner.register(data_out, Direction.WRITE) if data_out is not None and solicited else None
        except BaseException:
            if read:
                self._planner.release(read, 0)
            raise
        return _Tags(read, write, read.length if read else 0) if read or write else None

    def _unsent(self, itt: int, tags: _Tags | None) -> None:
        """Nothing of a command was posted: its tags were never valid."""
        if tags:
            del self._tags[itt]
            for registration in (tags.read, tags.write):
                if registration:
                    self._planner.release(registration, 0)

    def _post_command(self, pdu: Pdu, buffers: TaskBuffers, tags: _Tags | None) -> None:
        work: list[WorkRequest] = []
        flags, wstag, wbase, rstag, rbase = CONTROL, 0, 0, 0, 0
        if tags:
            read, write, _ = tags
            if read:
                work += read.work
                flags, rstag, rbase = flags | RSV, read.rkey, read.iova
            if write:
                work += write.work
                # The base names the first solicited byte, as every peer has it.
                flags, wstag, wbase = flags | WSV, write.rkey, write.iova + buffers.unsolicited_data_size
        header = build_header(IserHeader(flags, wstag, wbase, rstag, rbase))
        wire = header + encode_bhs(pdu.bhs) + (build_ahs(pdu.ahs) if pdu.ahs else b"")
        sg: tuple[memoryview, ...] = (memoryview(wire),)
        immediate = buffers.immediate_data_size
        if immediate and buffers.data_out is not None:
            self._planner.count_immediate()
            sg = (*sg, *padded(buffers.data_out.slice(0, immediate), padding(immediate)))
        work.append(Send(None, sg, 0, False))
        self._qp.post_send(*work)

    def _received(self, header: IserHeader, pdu: Pdu, invalidated: int) -> None:
        bhs = pdu.bhs
        tags = self._tags.get(bhs.itt) if type(bhs) is ScsiResponse else None
        if invalidated:
            self._check_invalidated(tags, invalidated)
        if tags and type(bhs) is ScsiResponse:
            del self._tags[bhs.itt]
            self._free(tags, invalidated, _transferred(tags, bhs))
        self._user.control_notify(pdu)

    def _check_invalidated(self, tags: _Tags | None, invalidated: int) -> None:
        if not self._remote_invalidate:
            raise RemoteProtocolError(f"the target invalidated STag {invalidated:#010x}, which was not agreed on")
        if tags is None or invalidated not in (tags.read and tags.read.rkey, tags.write and tags.write.rkey):
            raise RemoteProtocolError(f"the target invalidated STag {invalidated:#010x}, which is not the task's")

    def _free(self, tags: _Tags, remote: int, transferred: int) -> None:
        counters = self._planner.counters
        for registration, arrived in ((tags.read, transferred), (tags.write, 0)):
            if registration is None:
                continue
            if registration.long_lived:
                pass  # the next command uses the key again
            elif registration.rkey == remote:
                counters.remote_invalidations += 1
            else:
                self._qp.post_send(LocalInv(None, registration.rkey))
                counters.local_invalidations += 1
                counters.work_requests += 1
            self._planner.release(registration, arrived)

    def _free_tasks(self, *, flushed: bool) -> None:
        tasks, self._tags = self._tags, {}
        for tags in tasks.values():
            if not flushed:
                self._free(tags, remote=0, transferred=0)
                continue
            for registration in (tags.read, tags.write):
                if registration:
                    self._planner.release(registration, 0)


def _transferred(tags: _Tags, response: ScsiResponse) -> int:
    """Bytes of read data that a response vouches for."""
    if response.response or response.status:
        return 0
    return tags.edtl - min(tags.edtl, response.residual if response.flags & RESPONSE_UNDERFLOW else 0)
