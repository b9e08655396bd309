"""What both sides of the TCP datamover share: the stream, the framing, and control PDUs."""

from __future__ import annotations

import logging
import socket
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from iser.datamover.api import Datamover, DatamoverState, DatamoverUser
from iser.datamover.tcp.rx import Receiver
from iser.datamover.tcp.tx import MAX_BACKLOG, Transmitter
from iser.errors import IserError, LocalProtocolError, PduError, RemoteProtocolError
from iser.login import LOGIN_DATA_LENGTH, NegotiatedParameters
from iser.net import Stream, StreamTimes
from iser.pdu import Pdu

__all__ = ["CLOSED", "KEEPALIVE_IDLE", "MAX_DROPPED", "TcpEndpoint"]

MAX_DROPPED: Final = 256  # tags of ended tasks whose data may still come
KEEPALIVE_IDLE: Final = 60  # seconds of silence after which the kernel asks whether the peer is still there
CLOSED: Final = DatamoverState.CLOSED  # looked up per command
_CRC32C: Final = "CRC32C"

log = logging.getLogger("iser.datamover")


class TcpEndpoint(Datamover):
    """One iSCSI connection on one TCP socket; it is the machine of its stream and the owner of its receiver."""

    def __init__(self, user: DatamoverUser, data_opcode: int) -> None:
        self.state = DatamoverState.LOGIN
        self.name = "?"
        self._user = user
        self._params = NegotiatedParameters()
        self._rx = Receiver(self, data_opcode, LOGIN_DATA_LENGTH)
        self._tx = Transmitter()
        # The stream's machine is these two: a method between would be called at each wake-up.
        self.get_buffers = self._rx.get_buffers
        self.outgoing = self._tx.outgoing
        self._ending = False
        self._stream: Stream

    def attach(self, sock: socket.socket, times: StreamTimes | None = None) -> None:
        """Take over a connected, non-blocking socket."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        self._stream = Stream(sock, self, self._ended, times)
        self.name = self._stream.name
        self._stream.start()

    # Down-calls

    def notice_key_values(self, params: NegotiatedParameters) -> None:
        """See :class:`Datamover`."""
        self._require(DatamoverState.LOGIN, DatamoverState.ALLOCATED)
        self._params = params

    def allocate_connection_resources(self, queue_depth: int) -> None:
        """See :class:`Datamover`.  TCP has a window of its own; nothing needs to be posted."""
        del queue_depth
        if self.state is not DatamoverState.ALLOCATED:
            self._require(DatamoverState.LOGIN)
            self.state = DatamoverState.ALLOCATED

    def deallocate_connection_resources(self) -> None:
        """See :class:`Datamover`."""
        self._require(DatamoverState.ALLOCATED)
        self.state = DatamoverState.LOGIN

    def enable_datamover(self) -> None:
        """See :class:`Datamover`.  Digests hold from here on: the last login PDU has none (RFC 7143 section 13.1)."""
        self._require(DatamoverState.ALLOCATED)
        self.state = DatamoverState.ENABLED
        params, rx, tx = self._params, self._rx, self._tx
        rx.max_data, tx.segment = self._segments(params)
        tx.burst = params.max_burst_length
        rx.header_digest = tx.header_digest = params.header_digest == _CRC32C
        rx.data_digest = tx.data_digest = params.data_digest == _CRC32C

    def renew_key_values(self, params: NegotiatedParameters) -> None:
        """See :class:`Datamover`.  What is being sent goes on as it was cut."""
        self._params = params
        self._rx.max_data, self._tx.segment = self._segments(params)

    def send_control(self, pdu: Pdu) -> None:
        """See :class:`Datamover`."""
        self._require_open()
        self._tx.pdu(pdu)
        self._stream.wake()

    def connection_terminate(self) -> None:
        """See :class:`Datamover`."""
        if self.state is DatamoverState.CLOSED:
            return
        self._ending = True
        self.state = DatamoverState.CLOSED
        self._rx.stop()
        self._free_tasks()
        self._stream.finish()

    def abort(self, reason: IserError) -> None:
        """See :class:`Datamover`."""
        self._rx.stop()
        self._stream.abort(reason)

    async def close(self) -> None:
        """See :class:`Datamover`."""
        self.connection_terminate()
        await self._stream.close()

    @property
    def live_keys(self) -> int:
        """Regions that the peer can reach: over TCP there are none."""
        return 0

    # The stream's machine

    def received(self, count: int) -> None:
        """See :class:`iser.net.Machine`."""
        try:
            self._rx.received(count)
        except RemoteProtocolError as error:
            self._fail(error)
        except Exception as error:
            # A fault of ours must end one connection with a trace, not the process or, silently, a task.
            log.exception("%s: internal error on a received PDU", self.name)
            self.abort(LocalProtocolError(f"internal error: {error!r}"))

    def sent(self, count: int) -> int:
        """See :class:`iser.net.Machine`."""
        tx = self._tx
        for notify in tx.sent(count):
            self._moved(*notify)
        return tx.unsent

    @property
    def unsent(self) -> int:
        """See :class:`iser.net.Machine`."""
        return self._tx.unsent

    @property
    def pending(self) -> bool:
        """See :class:`iser.net.Machine`."""
        return self._tx.pending

    @property
    def congested(self) -> bool:
        """See :class:`iser.net.Machine`."""
        return len(self._tx.queue) > MAX_BACKLOG

    @property
    def mid_message(self) -> bool:
        """See :class:`iser.net.Machine`."""
        return self._rx.mid_message

    def malformed(self, error: PduError, bhs: bytes) -> None:
        """See :class:`iser.datamover.tcp.rx.Upcalls`."""
        self._user.malformed_notify(error, bhs)

    # What the sides do in their own way

    @abstractmethod
    def pdu_received(self, pdu: Pdu) -> None:
        """See :meth:`iser.datamover.tcp.rx.Upcalls.pdu_received`."""

    @abstractmethod
    def destination(self, bhs: Any) -> Sequence[memoryview] | None:
        """See :meth:`iser.datamover.tcp.rx.Upcalls.destination`."""

    @abstractmethod
    def placed(self, bhs: Any) -> None:
        """See :meth:`iser.datamover.tcp.rx.Upcalls.placed`."""

    @abstractmethod
    def _segments(self, params: NegotiatedParameters) -> tuple[int, int]:
        """The longest data segments to receive and to send, in bytes."""

    @abstractmethod
    def _free_tasks(self) -> None:
        """Forget every task; nothing is placed any more."""

    def _moved(self, itt: int, sn: int) -> None:
        """Data that was queued with a notification has gone.  Only targets do that."""
        raise LocalProtocolError(f"{self.name}: unexpected notification {sn} of task {itt:#x}")

    def _fail(self, error: IserError) -> None:
        """The peer broke the protocol: what is queued, a Reject perhaps, still goes out."""
        self._rx.stop()
        self._stream.finish(error)

    def _ended(self, reason: IserError | None) -> None:
        self.state = DatamoverState.CLOSED
        self._rx.stop()
        self._tx.clear()
        self._free_tasks()
        if not self._ending:
            self._ending = True
            self._user.connection_terminate_notify(reason)

    def _require_open(self) -> None:
        if self.state is CLOSED:
            raise LocalProtocolError(f"{self.name}: cannot send a PDU, the connection has ended")

    def _require(self, *states: DatamoverState) -> None:
        if self.state not in states:
            wanted = " or ".join(state.value for state in states)
            raise LocalProtocolError(f"{self.name}: the datamover is in state {self.state.value}; this needs {wanted}")
