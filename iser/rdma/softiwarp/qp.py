"""The queue pair: the protocol core on a non-blocking TCP socket, driven by the event loop.

One wakeup reads what is there (bounded), hands the completions over, and sends in gathered calls what the handler
posted.  Posts from elsewhere go out once per turn of the loop.  What the first completions of a large batch led to goes
out before the rest is handed over: else the peer has nothing to do meanwhile, and the two sides work in turns.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from enum import Enum
from typing import Final

from iser.errors import ConnectionLost, IserError, LocalProtocolError
from iser.net.busypoll import busy_poll
from iser.net.sockets import peer_name
from iser.rdma.api import ProtectionDomain, QpCap, QpState, QueuePair, RdmaRead, RdmaWrite, WorkCompletion, WorkRequest
from iser.rdma.softiwarp.core import INTERNAL, Core
from iser.rdma.softiwarp.cq import SoftCompletionQueue
from iser.rdma.softiwarp.memory import KeyTable
from iser.rdma.softiwarp.mpa import Agreed, Rtr
from iser.rdma.softiwarp.options import SoftIwarpOptions

__all__ = ["HAND_OVER", "SoftQueuePair"]

_log = logging.getLogger("iser.rdma.softiwarp")

RECV_CALLS: Final = 16  # reads per wakeup, so that one busy peer does not starve the others
READ_BUDGET: Final = 1 << 20  # bytes read per wakeup, likewise: one call may take as much
SEND_CALLS: Final = 4  # gathered writes in a row, likewise
ROUNDS: Final = 4  # rounds of completions and posts in one turn
HAND_OVER: Final = 8  # completions handed over before what they led to is sent
PROBE_DELAY: Final = 0.25  # seconds; see _on_readable
_DRAIN_SIZE: Final = 64 << 10


class _Phase(Enum):
    INIT = "not connected"
    RTS = "connected"
    CLOSING = "disconnecting"
    DRAINING = "over, waiting for the peer's end of the stream"
    CLOSED = "closed"


# To look up a member takes eight times as long.
_RTS: Final = _Phase.RTS
_DRAINING: Final = _Phase.DRAINING
_CLOSED: Final = _Phase.CLOSED


class SoftQueuePair(QueuePair):
    """See :class:`iser.rdma.api.QueuePair`."""

    def __init__(
        self, keys: KeyTable, pd: ProtectionDomain, cq: SoftCompletionQueue, cap: QpCap, options: SoftIwarpOptions
    ) -> None:
        self.on_disconnect: Callable[[IserError | None], None] | None = None
        self.name = "unconnected"
        self.core = Core(keys, pd, cap)
        self._cq = cq
        self._options = options
        self._phase = _Phase.INIT
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sock: socket.socket | None = None
        self._reason: IserError | None = None
        self._announced = False
        self._busy = False  # inside a turn: it will flush
        self._scheduled = False  # a turn is on its way
        self._alone = False  # one completion came by itself: what is posted next has nothing to go together with
        self._writer = False  # the socket is full and we wait for it
        self._fin_sent = False
        self._nudge_armed = False
        self._probes = False
        self._progress = 0.0  # time of the last byte the socket took while it was full
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = asyncio.Event()

    # Life.

    def attach(self, sock: socket.socket, agreed: Agreed, segment: int, *, initiator: bool) -> None:
        """Go to RTS on a connected socket that has finished MPA; the socket is ours from now on."""
        if self._phase is not _Phase.INIT:
            raise LocalProtocolError(f"queue pair {self.name} is {self._phase.value}; create a new one")
        self._loop = asyncio.get_running_loop()
        self._poll = busy_poll()
        self._sock = sock
        self.name = self.core.name = peer_name(sock)
        self._phase = _Phase.RTS
        # For bytes that the kernel has taken and the peer has not; ours are watched by _check_stall.
        patience = int((self._options.stall_timeout + 1) * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
        self.core.start(ird=agreed.ird, ord=agreed.ord, crc=agreed.crc, segment=segment, initiator=initiator)
        self._loop.add_reader(sock.fileno(), self._on_readable)
        self._probes = not isinstance(self._loop, asyncio.SelectorEventLoop)
        if initiator:
            self._begin(agreed.rtr)

    def _begin(self, rtr: Rtr) -> None:
        """The initiator's first frames: held back for a moment, then watched; see SoftIwarpOptions."""
        if rtr is Rtr.WRITE:
            self.core.post_send([RdmaWrite(INTERNAL, (), 0, 1)])
        elif rtr is Rtr.READ:
            self.core.post_send([RdmaRead(INTERNAL, (), 0, 1, signaled=False)])
        self._nudge_armed = self._options.nudge_delay > 0
        if self._options.first_fpdu_delay > 0:
            self.core.tx.held = True
            self._timer("hold", self._options.first_fpdu_delay, self._release_hold)
        self._schedule()

    def _release_hold(self) -> None:
        self._cancel("hold")
        self.core.tx.held = False
        self._turn()

    def _nudge(self) -> None:
        if self._phase is _Phase.RTS and not self.core.rx.has_heard:
            self.core.post_send([RdmaWrite(INTERNAL, (), 0, 1)])
            self._turn()

    @property
    def state(self) -> QpState:
        if self._phase is _Phase.INIT:
            return QpState.INIT
        return QpState.RTS if self._phase is _Phase.RTS else QpState.ERR

    @property
    def remote_operations(self) -> int:
        """See :class:`QueuePair`."""
        return self.core.rx.remote_operations

    def post_send(self, *wrs: WorkRequest) -> None:
        if self._phase is _RTS:
            self.core.post_send(wrs)
        elif self._phase is _Phase.INIT:
            raise LocalProtocolError("the queue pair is not connected; only receives can be posted")
        else:
            self.core.flush_posted(wrs)
        if not self._busy and not self._scheduled:
            if self._alone:
                self._send_now()
            else:
                self._schedule()

    def post_recv(self, wr_id: object, buffer: memoryview) -> None:
        if self._phase is _DRAINING or self._phase is _CLOSED:
            self.core.flush_receive(wr_id)
            self._schedule()
        else:
            self.core.post_recv(wr_id, buffer)

    def disconnect(self) -> None:
        if self._phase is _Phase.INIT:
            self._finish(None)
        elif self._phase is _Phase.RTS:
            self._phase = _Phase.CLOSING
            self._schedule()

    def abort(self, reason: IserError) -> None:
        self._finish(reason)

    async def close(self, timeout: float = 5.0) -> None:
        self.disconnect()
        try:
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        except TimeoutError:
            self.abort(ConnectionLost(f"{self.name} did not let the connection end within {timeout:g} s"))
            await self._closed.wait()
        self.core.close()

    def discard(self) -> None:
        """Free a queue pair that was never connected; nobody is told."""
        self.on_disconnect = None
        self._finish(None)
        self.core.close()

    # The event loop.

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._scheduled_turn)

    def _send_ahead(self) -> None:
        """Send what is posted, as far as the socket takes it, before the end of the turn."""
        if self.core.tx.pending and not self._writer and self._sock is not None:
            self._flush()

    def _send_now(self) -> None:
        """Save a lone request the turn of the loop in which others could join it."""
        self._alone = False
        self._send_ahead()
        if self.core.rx.completions or self.core.tx.pending or self._phase is not _Phase.RTS or self.core.ended:
            self._schedule()

    def _scheduled_turn(self) -> None:
        self._scheduled = False
        self._turn()

    def _on_readable(self) -> None:
        self._read()
        # uvloop calls once, and never again, when a reset arrives together with data.  Look once more after the last
        # data instead of paying for a second call to the socket each time.
        if self._probes and "probe" not in self._timers and self._sock is not None:
            self._timer("probe", PROBE_DELAY, self._probe)
        if self._poll.window:
            self._poll.served()

    def _probe(self) -> None:
        self._cancel("probe")
        self._read()

    def _read(self) -> None:
        sock, rx = self._sock, self.core.rx
        if sock is None:
            return
        ended = False
        budget = READ_BUDGET
        try:
            for _ in range(RECV_CALLS):
                buffers = rx.get_buffers()
                count = sock.recv_into(buffers[0]) if len(buffers) == 1 else sock.recvmsg_into(buffers)[0]
                if not count:
                    ended = True
                    break
                rx.received(count)
                budget -= count
                if count < rx.wanted or rx.stopped or budget <= 0:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lost(error)
            return
        self._turn()
        if ended and self._phase in (_Phase.RTS, _Phase.CLOSING):
            self._on_eof()

    def _turn(self) -> None:
        """Hand completions over and send what is posted, until there is neither or it is someone else's turn."""
        core = self.core
        rx = core.rx
        self._busy = True
        try:
            for _ in range(ROUNDS):
                if rx.completions:
                    batch = core.take_completions()
                    self._alone = len(batch) == 1
                    if len(batch) > HAND_OVER:
                        self._hand_over(batch)
                    else:
                        self._cq.deliver(batch)
                if self._writer or not core.tx.pending or self._sock is None:
                    if rx.completions:
                        continue
                    break
                self._flush()
        finally:
            self._busy = False
            if rx.completions or (core.tx.pending and not self._writer and self._sock is not None):
                self._schedule()
            if self._phase is not _RTS or core.ended:
                self._settle()

    def _hand_over(self, batch: list[WorkCompletion]) -> None:
        """Deliver a large batch in parts, and send what each of them led to before the next."""
        for end in range(HAND_OVER, len(batch) + HAND_OVER, HAND_OVER):
            try:
                self._cq.deliver(batch[end - HAND_OVER : end])
            except BaseException:
                self.core.rx.completions[:0] = batch[end:]  # they are still to come
                raise
            self._send_ahead()

    def _flush(self) -> None:
        sock, core = self._sock, self.core
        tx = core.tx
        assert sock is not None
        assert self._loop is not None
        for _ in range(SEND_CALLS):
            iov = core.outgoing()
            if not iov:
                break
            try:
                count = sock.send(iov[0]) if len(iov) == 1 else sock.sendmsg(iov)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self._lost(error)
                return
            core.sent(count)
            if count and self._nudge_armed:
                self._nudge_armed = False
                self._timer("nudge", self._options.nudge_delay, self._nudge)
            if tx.unsent:
                self._wait_writable(count)
                return
        if self._writer:
            self._writer = False
            self._loop.remove_writer(sock.fileno())
            self._cancel("stall")

    def _wait_writable(self, count: int) -> None:
        assert self._loop is not None
        assert self._sock is not None
        if not self._writer:
            self._writer = True
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
            self._progress = self._loop.time()
            self._timer("stall", self._options.stall_timeout, self._check_stall)
        elif count:
            self._progress = self._loop.time()

    def _on_writable(self) -> None:
        if self._sock is not None:
            self._flush()
            self._turn()

    def _check_stall(self) -> None:
        assert self._loop is not None
        limit = self._options.stall_timeout
        left = self._progress + limit - self._loop.time()
        if left > 0:
            self._timer("stall", left, self._check_stall)
            return
        self._give_up(
            ConnectionLost(f"{self.name} has not read for {limit:g} s; {self.core.tx.unsent} bytes wait for it")
        )

    # The end.

    def _lost(self, error: OSError) -> None:
        self._give_up(ConnectionLost(f"the connection to {self.name} broke: {error.strerror or error}"))

    def _give_up(self, reason: IserError) -> None:
        if not self._announced:
            _log.info("%s", reason)
        self._finish(reason)

    def _on_eof(self) -> None:
        core = self.core
        reason: IserError | None = None
        if core.rx.mid_fpdu or core.tx.unsent or core.reads_outstanding:
            reason = ConnectionLost(f"{self.name} closed the connection in the middle of a transfer")
            if self._phase is _Phase.CLOSING:
                reason = None
        self._finish(reason)

    def _settle(self) -> None:
        """What follows a turn once the connection is not simply open."""
        core = self.core
        if core.ended and self._phase in (_Phase.RTS, _Phase.CLOSING):
            # A protocol error of either side: tell our user at once, and the peer while the socket lingers.
            self._phase = _Phase.DRAINING
            self._reason = core.error
            assert self._loop is not None
            assert self._sock is not None
            self._loop.add_reader(self._sock.fileno(), self._on_drain)
            self._timer("linger", self._options.linger_timeout, self._close_socket)
            self._schedule()
            self._loop.call_soon(self._announce)
        over = self._phase in (_Phase.CLOSING, _Phase.DRAINING)
        if over and not core.tx.pending and "hold" not in self._timers:
            self._send_fin()

    def _send_fin(self) -> None:
        if self._fin_sent or self._sock is None:
            return
        self._fin_sent = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._lost(error)
            return
        if self._phase is _Phase.CLOSING:
            self._timer("linger", self._options.linger_timeout, self._end_of_linger)

    def _end_of_linger(self) -> None:
        self._finish(None)

    def _on_drain(self) -> None:
        """Read to the end of the stream, so that closing does not reset it and the Terminate arrives."""
        assert self._sock is not None
        try:
            if self._sock.recv_into(self.core.rx.get_buffers()[0]):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass  # the peer reset the connection, which ends it as well
        self._close_socket()

    def _finish(self, reason: IserError | None) -> None:
        """Flush everything, close the socket, and announce the end from the event loop."""
        if self._phase is _Phase.CLOSED:
            return
        announced = self._phase is _Phase.DRAINING
        if not announced:
            # What the protocol said before the socket broke is the better reason.
            self._reason = self.core.error if self.core.ended else reason
            self.core.abort(reason)
        self._close_socket()
        if not announced:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._announce)

    def _announce(self) -> None:
        """Deliver what was flushed, then say once that the connection is over."""
        if self._announced:
            return
        self._announced = True
        try:
            if self.core.rx.completions:
                self._cq.deliver(self.core.take_completions())
        finally:
            if self._sock is None:
                self._closed.set()
            if self.on_disconnect is not None:
                self.on_disconnect(self._reason)

    def _close_socket(self) -> None:
        for name in list(self._timers):
            self._cancel(name)
        sock, self._sock = self._sock, None
        if sock is not None:
            assert self._loop is not None
            self._loop.remove_reader(sock.fileno())
            if self._writer:
                self._writer = False
                self._loop.remove_writer(sock.fileno())
            sock.close()
        self._phase = _Phase.CLOSED
        if self._announced:
            self._closed.set()

    def _timer(self, name: str, delay: float, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        self._cancel(name)
        self._timers[name] = self._loop.call_later(delay, callback)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
