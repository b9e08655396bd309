"""The connection manager: TCP connect and accept, MPA start-up, and the provider itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from iser.errors import ConnectionFailed, ConnectionRejected, MpaError, TerminateError, UsageError
from iser.net.sockets import Address, SockAddress, addresses_of, bind, dial, is_loopback, resolve, why_not
from iser.rdma.api import (
    ConnectionInfo,
    ConnectionParams,
    ConnectRequest,
    Device,
    Listener,
    Provider,
    QueuePair,
)
from iser.rdma.arrivals import Arrivals, PendingRequest
from iser.rdma.softiwarp.device import SoftDevice
from iser.rdma.softiwarp.mpa import Agreed, FrameReader, MpaFrame, MpaInitiator, MpaResponder
from iser.rdma.softiwarp.options import HANDSHAKE_GRACE, MIN_SEGMENT, SoftIwarpOptions
from iser.rdma.softiwarp.qp import SoftQueuePair
from iser.rdma.softiwarp.tx import Transmitter
from iser.rdma.softiwarp.wire import MAX_ULPDU, Fault, build_terminate

__all__ = ["SoftConnectRequest", "SoftIwarp", "SoftListener"]

_log = logging.getLogger("iser.rdma.softiwarp")

ACCEPT_PAUSE: Final = 1.0  # seconds without accepting when the process is out of descriptors
_FPDU_OVERHEAD: Final = 6  # length and CRC field


class SoftIwarp(Provider):
    """The embedded RNIC.  ``device`` is its one device; ``options`` see :class:`SoftIwarpOptions`."""

    name = "softiwarp"

    def __init__(self, options: SoftIwarpOptions | None = None) -> None:
        self.options = options or SoftIwarpOptions()
        self.device = SoftDevice(self.options)

    async def connect(
        self,
        host: str,
        port: int,
        setup: Callable[[Device], QueuePair],
        params: ConnectionParams | Callable[[Device], ConnectionParams],
        timeout: float = 10.0,
    ) -> tuple[QueuePair, ConnectionInfo]:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        qp: SoftQueuePair | None = None
        try:
            async with asyncio.timeout(timeout):
                addresses = await resolve(host, port)
                qp = _ours(setup(self.device))
                info = await self._connect(qp, addresses, params(self.device) if callable(params) else params)
        except BaseException as error:
            if qp is not None:
                qp.discard()
            failed = _as_failed(error, where, timeout)
            if failed is None:
                raise
            raise failed from error
        return qp, info

    async def _connect(
        self, qp: SoftQueuePair, addresses: list[SockAddress], params: ConnectionParams
    ) -> ConnectionInfo:
        sock = await dial(addresses, self.options.socket_buffer)
        try:
            agreed = await self._start_mpa(sock, params)
            local, remote = addresses_of(sock)
            qp.attach(sock, agreed, self._segment(sock), initiator=True)
        except BaseException:
            sock.close()
            raise
        return ConnectionInfo(agreed.private_data, agreed.ird, agreed.ord, local, remote)

    async def _start_mpa(self, sock: socket.socket, params: ConnectionParams) -> Agreed:
        options, attributes = self.options, self.device.attributes
        mpa = MpaInitiator(
            params.private_data,
            ird=min(params.responder_resources, attributes.max_qp_rd_atom),
            ord=min(params.initiator_depth, attributes.max_qp_init_rd_atom),
            crc=self.wants_crc(sock),
            version=options.mpa_version,
            peer_to_peer=options.peer_to_peer,
        )
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, mpa.request)
        async with asyncio.timeout(options.mpa_timeout):
            frame = await _read_frame(sock, reply=True)
        try:
            return mpa.reply(frame)
        except TerminateError as error:
            await loop.sock_sendall(sock, _lone_terminate(error))
            raise

    async def listen(self, host: str, port: int, on_request: Callable[[ConnectRequest], Awaitable[None]]) -> Listener:
        try:
            addresses = await resolve(host or None, port, passive=True)
            sock = bind(*addresses[0], self.options.socket_buffer)
        except OSError as error:
            raise ConnectionFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        return SoftListener(self, sock, on_request)

    def wants_crc(self, sock: socket.socket) -> bool:
        """Shall we ask for CRCs?"""
        crc = self.options.crc
        return not _is_loopback(sock) if crc == "auto" else crc

    def _segment(self, sock: socket.socket) -> int:
        """The largest ULPDU to send, in bytes."""
        segment = self.options.segment
        if isinstance(segment, int):
            return segment
        if segment == "auto" and _is_loopback(sock):
            return MAX_ULPDU
        emss = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        return min(MAX_ULPDU, max(MIN_SEGMENT, emss - _FPDU_OVERHEAD - emss % 4))

    async def accepted(self, sock: socket.socket, address: Address) -> SoftConnectRequest | None:
        """Read the request of a new connection; None, with one log line, when it is not one that can be accepted."""
        name = f"{address[0]}:{address[1]}"
        responder: MpaResponder | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self.options.mpa_timeout):
                responder = MpaResponder(await _read_frame(sock, reply=False))
            if responder.fault is None:
                return SoftConnectRequest(self, sock, responder)
            problem = responder.fault
        except (MpaError, OSError) as error:
            # TimeoutError is an OSError and has no text.
            problem = str(error) or f"sent no MPA Request within {self.options.mpa_timeout:g} s"
        _log.info("connection from %s refused: %s", name, problem)
        if responder is not None:
            await _farewell(sock, responder.reject(), self.options.linger_timeout)
        sock.close()
        return None

    def enter(self, qp: QueuePair, sock: socket.socket, agreed: Agreed) -> None:
        """Bring ``qp`` to RTS as responder."""
        _ours(qp).attach(sock, agreed, self._segment(sock), initiator=False)


class SoftConnectRequest(PendingRequest):
    """See :class:`iser.rdma.api.ConnectRequest`."""

    def __init__(self, provider: SoftIwarp, sock: socket.socket, responder: MpaResponder) -> None:
        self.device = provider.device
        self.answered = asyncio.Event()
        self._provider = provider
        self._sock = sock
        self._responder = responder
        attributes = provider.device.attributes
        local, remote = addresses_of(sock)
        served, wanted = attributes.max_qp_rd_atom, attributes.max_qp_init_rd_atom
        if responder.peer_ord is not None:
            served = min(served, responder.peer_ord)
        if responder.peer_ird is not None:
            wanted = min(wanted, responder.peer_ird)
        self.info = ConnectionInfo(responder.private_data, served, wanted, local, remote)

    async def accept(self, qp: QueuePair, params: ConnectionParams) -> ConnectionInfo:
        self._answer()
        sock = self._sock
        try:
            reply, agreed = self._responder.accept(
                params.private_data,
                ird=min(params.responder_resources, self.info.responder_resources),
                ord=min(params.initiator_depth, self.info.initiator_depth),
                crc=self._provider.wants_crc(sock),
            )
            async with asyncio.timeout(self._provider.options.mpa_timeout):
                await asyncio.get_running_loop().sock_sendall(sock, reply)
            self._provider.enter(qp, sock, agreed)
        except OSError as error:
            sock.close()
            host, port = self.info.remote_address
            raise ConnectionFailed(f"{host}:{port} went away before it was accepted: {error}") from error
        except BaseException:
            sock.close()
            raise
        finally:
            self.answered.set()
        info = self.info
        return ConnectionInfo(info.private_data, agreed.ird, agreed.ord, info.local_address, info.remote_address)

    async def reject(self, private_data: bytes = b"") -> None:
        self._answer()
        try:
            await _farewell(self._sock, self._responder.reject(private_data), self._provider.options.linger_timeout)
        finally:
            self._sock.close()
            self.answered.set()

    def _answer(self) -> None:
        if self._sock.fileno() < 0 or self.answered.is_set() or self._responder.fault is not None:
            raise UsageError("this connection request has been answered")
        self._responder.fault = "has been answered"


class SoftListener(Listener):
    """See :class:`iser.rdma.api.Listener`."""

    def __init__(
        self, provider: SoftIwarp, sock: socket.socket, on_request: Callable[[ConnectRequest], Awaitable[None]]
    ) -> None:
        host, port = sock.getsockname()[:2]
        self.address = (host, port)
        self._provider = provider
        self._sock = sock
        self._arrivals = Arrivals(on_request, self._release, _log)
        self._loop = asyncio.get_running_loop()
        self._pending = 0
        #: Those that have sent no MPA Request yet, oldest first: from which host, and since when.
        self._handshakes: dict[asyncio.Task[None], tuple[str, float]] = {}
        self._again: asyncio.TimerHandle | None = None
        self._listening = False
        self._closed = False
        self._listen()

    def _listen(self) -> None:
        if not self._listening and not self._closed:
            self._listening = True
            self._loop.add_reader(self._sock.fileno(), self._on_acceptable)

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._sock.fileno())

    def _on_acceptable(self) -> None:
        while self._pending < self._provider.options.max_pending or self._make_room():
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept on %s:%s: %s; trying again", *self.address, error)
                self._pause()
                self._loop.call_later(ACCEPT_PAUSE, self._listen)
                return
            sock.setblocking(False)
            self._pending += 1
            task = self._loop.create_task(self._shake_hands(sock, address[:2]))
            self._handshakes[task] = (address[0], self._loop.time())
            task.add_done_callback(self._shook_hands)
        self._pause()  # the others wait in the backlog

    def _shook_hands(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)

    def _make_room(self) -> bool:
        """Drop the oldest silent connection of the host that has most: who floods us keeps out nobody but himself."""
        if not self._handshakes:
            return False
        counts = Counter(host for host, _ in self._handshakes.values())
        most = max(counts.values())
        task, (host, since) = next(item for item in self._handshakes.items() if counts[item[1][0]] == most)
        left = since + HANDSHAKE_GRACE - self._loop.time()
        if left > 0:
            if self._again is not None:
                self._again.cancel()
            self._again = self._loop.call_later(left, self._listen)
            return False
        del self._handshakes[task]
        task.cancel()  # gives its place back as it ends, which is not before the next has taken it
        _log.info("dropped a connection from %s that has sent nothing: others wait for its place", host)
        return True

    async def _shake_hands(self, sock: socket.socket, address: Address) -> None:
        try:
            request = await self._provider.accepted(sock, address)
        except BaseException:
            sock.close()
            self._release()
            raise
        if request is None:
            self._release()
            return
        self._arrivals.hand_over(request)

    def _release(self) -> None:
        self._pending -= 1
        self._listen()

    async def close(self) -> None:
        if self._closed:
            return
        self._pause()
        self._closed = True
        self._sock.close()
        if self._again is not None:
            self._again.cancel()
        handshakes = list(self._handshakes)
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)


def _ours(qp: QueuePair) -> SoftQueuePair:
    if not isinstance(qp, SoftQueuePair):
        raise UsageError("the queue pair was made by another provider")
    return qp


def _as_failed(error: BaseException, where: str, timeout: float) -> ConnectionFailed | None:
    """The documented form of what went wrong on the way to ``where``; None for what passes as it is."""
    if isinstance(error, ConnectionRejected):
        return ConnectionRejected(f"{where} refused the connection", error.private_data)
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{where} did not answer within {timeout:g} s; is an iWARP listener there?")
    if isinstance(error, OSError):
        return ConnectionFailed(f"cannot connect to {where}: {why_not(error)}")
    if isinstance(error, MpaError | TerminateError):
        return ConnectionFailed(f"cannot connect to {where}: {error}")
    return None


async def _read_frame(sock: socket.socket, *, reply: bool) -> MpaFrame:
    loop = asyncio.get_running_loop()
    reader = FrameReader(reply=reply)
    while True:
        data = await loop.sock_recv(sock, reader.needed)
        if not data:
            raise MpaError(
                f"the peer closed the connection instead of sending an MPA {'Reply' if reply else 'Request'}"
            )
        frame = reader.feed(data)
        if frame is not None:
            return frame


async def _farewell(sock: socket.socket, data: bytes, timeout: float) -> None:
    """Send the last bytes and wait for the peer's end of the stream, so that they are not lost to a reset."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(timeout):
            await loop.sock_sendall(sock, data)
            sock.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(sock, 4096):
                pass


def _lone_terminate(error: TerminateError) -> bytes:
    tx = Transmitter()
    tx.cut(build_terminate(Fault(error.layer, error.etype, error.code)))
    return b"".join(tx.outgoing())


def _is_loopback(sock: socket.socket) -> bool:
    return is_loopback(sock.getpeername()[0])
