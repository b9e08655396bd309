"""What both sides of the iSER datamover share: the queue pair, its receives, and control PDUs as Sends."""

from __future__ import annotations

import logging
import struct
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from iser.datamover.api import Datamover, DatamoverState, DatamoverUser
from iser.errors import ConnectionLost, IserError, LocalProtocolError, PduError, RemoteProtocolError, ResourceError
from iser.login import NegotiatedParameters
from iser.pdu import (
    CONTROL,
    ISER_HEADER_LENGTH,
    PLAIN_HEADER,
    IserHeader,
    Pdu,
    decode,
    decode_bhs,
    encode,
    parse_header,
)
from iser.pdu.bhs import BHS_LENGTH
from iser.rdma.api import (
    CompletionQueue,
    Device,
    ProtectionDomain,
    QpCap,
    QueuePair,
    Send,
    WcOpcode,
    WcStatus,
    WorkCompletion,
    WorkRequest,
)

__all__ = ["EXTRA_RECEIVES", "MAX_CONTROL_DATA", "RECEIVE_LENGTH", "Endpoint"]

MAX_CONTROL_DATA: Final = 8192  # bytes of data segment in a control PDU, either way
RECEIVE_LENGTH: Final = 8544  # 28 iSER header, 48 BHS, 256 AHS, 8192 data, rounded up to 32
LOGIN_RECEIVES: Final = 2
EXTRA_RECEIVES: Final = 32  # immediate and unsolicited PDUs beside the command window
MAX_SEND_WR: Final = 16384

#: The kind of the iSER header, and the lengths of AHS and data segment in the BHS: what tells a PDU of nothing else.
_START: Final = struct.Struct(f">B{ISER_HEADER_LENGTH + 3}xI")
_BARE_START: Final = (CONTROL, 0)
_BARE: Final = ISER_HEADER_LENGTH + BHS_LENGTH
_PLAIN: Final = IserHeader()
# A member of an enumeration takes long to look up, for what is done for each PDU.
_CLOSED: Final = DatamoverState.CLOSED
_RECV: Final = WcOpcode.RECV
_new: Final = tuple.__new__  # half the price of calling the NamedTuple

log = logging.getLogger("iser.datamover")


class Endpoint(Datamover):
    """One iSER connection on one RC queue pair."""

    def __init__(self, user: DatamoverUser) -> None:
        self.state = DatamoverState.LOGIN
        self.name = "?"
        self._user = user
        self._params: NegotiatedParameters | None = None
        self._slots: list[memoryview] = []
        self._remote_invalidate = False
        self._terminating = False
        self._aborting = False
        self._made: list[CompletionQueue | ProtectionDomain] = []  # to be closed in this order
        self._pd: ProtectionDomain
        self._qp: QueuePair

    def setup(self, device: Device, receives: int, sends: int = MAX_SEND_WR) -> QueuePair:
        """Make the queue pair on ``device`` and post the receives of the login phase.

        ``receives`` is how many there can be for tasks, ``sends`` how many work requests may be posted at once.
        """
        receives += LOGIN_RECEIVES + EXTRA_RECEIVES
        self._device = device
        try:
            self._pd = device.alloc_pd()
            self._made.append(self._pd)
            cq = device.create_cq(sends + receives, self._completed)
            self._made.insert(0, cq)
            self._qp = device.create_qp(self._pd, cq, QpCap(sends, receives))
        except BaseException:
            self._release()
            raise
        try:
            self._post_receives(LOGIN_RECEIVES)
        except BaseException:
            self._qp.abort(LocalProtocolError("the receives of the login could not be posted"))
            self._release()
            raise
        self._qp.on_disconnect = self._disconnected
        return self._qp

    def notice_key_values(self, params: NegotiatedParameters) -> None:
        """See :class:`Datamover`."""
        self._require(DatamoverState.LOGIN, DatamoverState.ALLOCATED)
        self._params = params

    def allocate_connection_resources(self, queue_depth: int) -> None:
        """See :class:`Datamover`."""
        if self.state is DatamoverState.ALLOCATED:
            return
        self._require(DatamoverState.LOGIN)
        self._post_receives(queue_depth + EXTRA_RECEIVES)
        self.state = DatamoverState.ALLOCATED

    def deallocate_connection_resources(self) -> None:
        """See :class:`Datamover`.  The receives stay posted until the connection ends, as verbs offer no way back."""
        self._require(DatamoverState.ALLOCATED)
        self.state = DatamoverState.LOGIN

    def enable_datamover(self) -> None:
        """See :class:`Datamover`."""
        self._require(DatamoverState.ALLOCATED)
        self.state = DatamoverState.ENABLED

    def send_control(self, pdu: Pdu) -> None:
        """See :class:`Datamover`."""
        self._send(PLAIN_HEADER + encode(pdu))

    def connection_terminate(self) -> None:
        """See :class:`Datamover`."""
        if self.state is DatamoverState.CLOSED:
            return
        self._terminating = True
        self._free_tasks(flushed=False)
        self.state = DatamoverState.CLOSED
        self._qp.disconnect()

    def abort(self, reason: IserError) -> None:
        """See :class:`Datamover`."""
        self._aborting = True
        self._qp.abort(reason)

    async def close(self) -> None:
        """See :class:`Datamover`."""
        if self._made:
            self.connection_terminate()
            await self._qp.close()
            self._release()

    @property
    def live_keys(self) -> int:
        """Regions that the peer can reach now."""
        return self._pd.valid_keys

    def _post_receives(self, count: int) -> None:
        arena = self._pd.alloc_buffer(count * RECEIVE_LENGTH)
        for start in range(0, count * RECEIVE_LENGTH, RECEIVE_LENGTH):
            slot = arena[start : start + RECEIVE_LENGTH]
            self._qp.post_recv(len(self._slots), slot)
            self._slots.append(slot)

    def _send(self, message: bytes, *more: memoryview, invalidate: int = 0) -> None:
        self._check_open()
        self._post(Send(None, (memoryview(message), *more), invalidate, False))

    def _check_open(self) -> None:
        if self.state is _CLOSED:
            raise LocalProtocolError(f"{self.name}: cannot send a PDU, the connection has ended")

    def _post(self, *work: WorkRequest) -> None:
        """Post what we owe a peer; one that takes nothing any more loses the connection."""
        try:
            self._qp.post_send(*work)
        except ResourceError as error:
            self.abort(ConnectionLost(f"the peer does not take what it asked for: {error}"))

    def _completed(self, completions: list[WorkCompletion]) -> None:
        slots, qp = self._slots, self._qp
        for wr_id, status, opcode, byte_len, invalidated in completions:
            if status:
                self._failed(opcode, status)
            elif opcode is _RECV:
                slot = slots[wr_id]  # type: ignore[call-overload]  # receives are posted by slot number
                if self.state is not _CLOSED and not self._aborting:
                    self._receive(slot[:byte_len], invalidated)
                    qp.post_recv(wr_id, slot)
            elif wr_id is not None:
                try:
                    self._data_completed(wr_id)
                except Exception as error:
                    self._stumbled(error, "a completion")

    def _failed(self, opcode: WcOpcode, status: WcStatus) -> None:
        if status is not WcStatus.WR_FLUSH_ERR and not self._terminating:
            log.info("%s: %s ended with %s", self.name, opcode.name, status.name)

    def _receive(self, message: memoryview, invalidated: int) -> None:
        try:
            bare = len(message) == _BARE and _START.unpack_from(message) == _BARE_START
            header = _PLAIN if bare else parse_header(message)
            if not isinstance(header, IserHeader):
                raise RemoteProtocolError("the peer sent an iSER Hello, which was not negotiated")
            try:
                if bare:
                    pdu = _new(Pdu, (decode_bhs(message, ISER_HEADER_LENGTH), b"", ()))
                else:
                    pdu = decode(message[ISER_HEADER_LENGTH:], MAX_CONTROL_DATA)
            except PduError as error:
                self._user.malformed_notify(error, bytes(message[ISER_HEADER_LENGTH : ISER_HEADER_LENGTH + 48]))
                return
            self._received(header, pdu, invalidated)
        except RemoteProtocolError as error:
            self.abort(error)
        except Exception as error:
            self._stumbled(error, "a received PDU")

    def _stumbled(self, error: Exception, what: str) -> None:
        """A fault of ours must end one connection with a trace, not the process or, silently, a task."""
        log.error("%s: internal error on %s", self.name, what, exc_info=error)
        self.abort(LocalProtocolError(f"internal error: {error!r}"))

    @abstractmethod
    def _received(self, header: IserHeader, pdu: Pdu, invalidated: int) -> None:
        """Hand a PDU up."""

    @abstractmethod
    def _free_tasks(self, *, flushed: bool) -> None:
        """Drop every task's tags; ``flushed`` when the queue pair can no longer carry an invalidation."""

    def _data_completed(self, wr_id: object) -> None:
        """A signaled data transfer is complete.  Only targets post such."""
        raise LocalProtocolError(f"{self.name}: unexpected completion {wr_id!r}")

    def _disconnected(self, reason: IserError | None) -> None:
        self.state = DatamoverState.CLOSED
        self._free_tasks(flushed=True)
        self._release()
        if not self._terminating:
            self._terminating = True
            self._user.connection_terminate_notify(reason)

    def _release(self) -> None:
        """Free what :meth:`setup` made, as far as it came.  Idempotent."""
        for made in self._made:
            made.close()

    def _require(self, *states: DatamoverState) -> None:
        if self.state not in states:
            wanted = " or ".join(state.value for state in states)
            raise LocalProtocolError(f"{self.name}: the datamover is in state {self.state.value}; this needs {wanted}")


def padded(views: Sequence[memoryview], pad: bytes) -> tuple[memoryview, ...]:
    """``views`` with the padding of a data segment after them."""
    return (*views, memoryview(pad)) if pad else tuple(views)
