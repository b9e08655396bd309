"""A connected TCP socket driven by the event loop, with a sans-IO machine that does the thinking.

One wake-up reads what is there, bounded; the machine hands up what is complete; then all that was queued meanwhile goes
out in one gathered call.  What is queued at other times goes out once per turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from iser.errors import ConnectionLost, IserError
from iser.net.busypoll import busy_poll
from iser.net.sockets import peer_name

__all__ = [
    "LINGER_TIMEOUT",
    "LOOK_DELAY",
    "READ_BUDGET",
    "SEND_CALLS",
    "STALL_TIMEOUT",
    "Machine",
    "Stream",
    "StreamTimes",
]

READ_BUDGET: Final = 1 << 20  # bytes read in one wake-up, so that one busy peer does not starve the others
SEND_CALLS: Final = 4  # gathered sends in a row, likewise
STALL_TIMEOUT: Final = 30.0  # seconds without progress while there is something to send
LINGER_TIMEOUT: Final = 2.0  # seconds to wait for the peer's end of the stream after ours
LOOK_DELAY: Final = 0.25  # seconds after data until the socket is looked at once more; see _look_again
_DRAIN: Final = 64 << 10  # bytes thrown away at once

Piece = bytes | bytearray | memoryview


class Machine(Protocol):
    """What a stream asks of its machine.  ``unsent`` is how many bytes that are given out the socket has not taken."""

    def get_buffers(self) -> list[memoryview]:
        """Where the next bytes go."""

    def received(self, count: int) -> None:
        """So many bytes were put there."""

    def outgoing(self) -> Sequence[Piece]:
        """What to send next, at most IOV_MAX pieces; the same again until it is :meth:`sent`."""

    def sent(self, count: int) -> int:
        """The socket took so many bytes of it; returns how many it has not taken."""

    @property
    def unsent(self) -> int: ...

    @property
    def pending(self) -> bool:
        """Is there anything to send?"""

    @property
    def congested(self) -> bool:
        """Is so much queued that nothing more should be read from a peer that does not read?"""

    @property
    def mid_message(self) -> bool:
        """Would the stream end inside a message now?"""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: see STALL_TIMEOUT and LINGER_TIMEOUT."""

    stall: float = STALL_TIMEOUT
    linger: float = LINGER_TIMEOUT


class _Phase(Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


_OPEN, _CLOSING, _CLOSED = _Phase  # looked up at each wake-up


class Stream:
    """Owns ``sock``.  ``on_end`` is called once, from the event loop, with None after an orderly end.

    Nothing is read before :meth:`start`.
    """

    __slots__ = (
        "_busy",
        "_closed",
        "_fin_sent",
        "_linger",
        "_look",
        "_looks",
        "_loop",
        "_machine",
        "_on_end",
        "_paused",
        "_phase",
        "_poll",
        "_progress",
        "_reason",
        "_scheduled",
        "_sock",
        "_stall",
        "_times",
        "_writer",
        "name",
    )

    def __init__(
        self,
        sock: socket.socket,
        machine: Machine,
        on_end: Callable[[IserError | None], None],
        times: StreamTimes | None = None,
    ) -> None:
        self.name = peer_name(sock)
        self._sock: socket.socket | None = sock
        self._machine = machine
        self._on_end = on_end
        self._times = times or StreamTimes()
        self._loop = asyncio.get_running_loop()
        self._poll = busy_poll()
        self._phase = _OPEN
        self._reason: IserError | None = None
        self._busy = False  # reading: what is queued goes out at its end
        self._scheduled = False
        self._writer = False  # the socket is full and we wait for it
        self._paused = False  # not reading, as the peer does not read either
        self._fin_sent = False
        self._progress = 0.0  # time of the last byte the socket took while it was full
        self._stall: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._looks = not isinstance(self._loop, asyncio.SelectorEventLoop)
        self._look: asyncio.TimerHandle | None = None
        self._closed = self._loop.create_future()

    def start(self) -> None:
        """Begin to read and write."""
        if self._sock is not None:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def wake(self) -> None:
        """The machine has something to send."""
        if not (self._busy or self._scheduled or self._writer):
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def finish(self, reason: IserError | None = None) -> None:
        """End the connection once what is queued has gone out.  Nothing more is read; ``on_end`` gets ``reason``."""
        if self._phase is _OPEN:
            self._phase = _CLOSING
            self._reason = reason
            self._resume()
            # A peer that neither reads nor closes must not hold us for longer than a stalled one.
            self._linger = self._loop.call_later(self._times.stall, self._close)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._turn)

    def abort(self, reason: IserError | None) -> None:
        """End the connection at once."""
        if self._phase is _OPEN:
            self._reason = reason
        self._close()

    async def close(self, timeout: float = 5.0) -> None:
        """End the connection, in ``timeout`` seconds at most, and wait until ``on_end`` was called."""
        self.finish()
        done, _ = await asyncio.wait((self._closed,), timeout=timeout)
        if not done:
            self._close()
            await self._closed

    # The event loop

    def _on_readable(self) -> None:  # noqa: PLR0912 - once per wake-up; a call per step would be felt
        sock, machine = self._sock, self._machine
        if sock is None:
            return
        if self._phase is _CLOSING:
            self._drain(sock)
            return
        ended = False
        self._busy = True
        budget = READ_BUDGET
        try:
            while True:
                buffers = machine.get_buffers()
                if len(buffers) == 1:
                    room = len(buffers[0])
                    count = sock.recv_into(buffers[0])
                else:
                    room = sum(map(len, buffers))
                    count = sock.recvmsg_into(buffers)[0]
                if not count:
                    ended = True
                    break
                machine.received(count)
                budget -= count
                if count < room or budget <= 0 or self._phase is not _OPEN:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lost(error)
            return
        finally:
            self._busy = False
        if self._phase is _CLOSED:
            return
        if not self._writer:
            self._flush()
        if self._writer and machine.congested:
            self._pause()
        if ended:
            self._on_eof()
        elif self._looks and self._look is None:
            self._look = self._loop.call_later(LOOK_DELAY, self._look_again)
        if self._poll.window:
            self._poll.served()

    def _look_again(self) -> None:
        """Find a reset that came together with data: uvloop calls once for both, and never again.

        One timer after the last data is cheaper than a second call to the socket each time.
        """
        if not self._paused:
            self._on_readable()
        self._look = None

    def _turn(self) -> None:
        self._scheduled = False
        if self._sock is not None and not self._writer:
            self._flush()

    def _flush(self) -> None:
        sock, machine = self._sock, self._machine
        assert sock is not None
        for _ in range(SEND_CALLS):
            pieces = machine.outgoing()
            if not pieces:
                break
            try:
                count = sock.send(pieces[0]) if len(pieces) == 1 else sock.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self._lost(error)
                return
            unsent = machine.sent(count)
            if self._sock is None:
                return
            if unsent:
                self._wait_writable(count)
                return
        else:
            if machine.pending:
                self._wait_writable(1)
                return
        if self._writer:
            self._writer = False
            self._loop.remove_writer(sock.fileno())
            _cancel(self._stall)
        if self._phase is _CLOSING:
            self._send_fin(sock)

    def _wait_writable(self, count: int) -> None:
        assert self._sock is not None
        if not self._writer:
            self._writer = True
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
            self._progress = self._loop.time()
            self._stall = self._loop.call_later(self._times.stall, self._check_stall)
        elif count:
            self._progress = self._loop.time()

    def _on_writable(self) -> None:
        if self._sock is not None:
            self._flush()
        if self._paused and not self._machine.congested:
            self._resume()

    def _check_stall(self) -> None:
        limit = self._times.stall
        left = self._progress + limit - self._loop.time()
        if left > 0:
            self._stall = self._loop.call_later(left, self._check_stall)
        else:
            self.abort(ConnectionLost(f"{self.name} has not read for {limit:g} s; {self._machine.unsent} bytes wait"))

    def _pause(self) -> None:
        if not self._paused and self._sock is not None:
            self._paused = True
            self._loop.remove_reader(self._sock.fileno())

    def _resume(self) -> None:
        if self._paused and self._sock is not None:
            self._paused = False
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    # The end

    def _lost(self, error: OSError) -> None:
        if error.errno == errno.EFAULT:  # it was mapped from a file that is shorter now, or cannot be read
            self.abort(ConnectionLost(f"data for {self.name} was lost on its way to the socket: its file was cut?"))
            return
        self.abort(ConnectionLost(f"the connection to {self.name} broke: {error.strerror or error}"))

    def _on_eof(self) -> None:
        if self._phase is not _OPEN:
            return
        machine = self._machine
        if machine.mid_message or machine.unsent:
            self.abort(ConnectionLost(f"{self.name} closed the connection in the middle of a transfer"))
        else:
            self.abort(None)

    def _send_fin(self, sock: socket.socket) -> None:
        if self._fin_sent:
            return
        self._fin_sent = True
        _cancel(self._linger)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._linger = self._loop.call_later(self._times.linger, self._close)

    def _drain(self, sock: socket.socket) -> None:
        """Read to the end of the stream, so that closing does not reset it and our last words arrive."""
        try:
            if sock.recv(_DRAIN):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass  # the peer reset the connection, which ends it as well
        self._close()

    def _close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._phase = _CLOSED
        _cancel(self._stall)
        _cancel(self._linger)
        _cancel(self._look)
        self._loop.remove_reader(sock.fileno())
        if self._writer:
            self._loop.remove_writer(sock.fileno())
        sock.close()
        self._loop.call_soon(self._announce)

    def _announce(self) -> None:
        try:
            self._on_end(self._reason)
        finally:
            self._closed.set_result(None)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
