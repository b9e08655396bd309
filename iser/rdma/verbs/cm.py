"""The provider: connecting and accepting through the RDMA connection manager.

InfiniBand and RoCE leave the queue pair's transitions to us, iWARP does them in the kernel.  On iWARP the call that
connects waits for TCP, so a thread makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from iser.errors import ConnectionFailed, ConnectionRejected, IserError, ResourceError, UsageError
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
from iser.rdma.verbs.constants import QPS_RTR, QPS_RTS, CmEventType
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.events import CmId, EventChannel
from iser.rdma.verbs.library import device_error
from iser.rdma.verbs.options import VerbsOptions
from iser.rdma.verbs.qp import VerbsQueuePair
from iser.rdma.verbs.rdmacm import CmEvent, CmLibrary, ConnParam, load_rdmacm, pack_address

__all__ = ["MAX_PENDING", "MAX_PRIVATE_DATA", "Verbs", "VerbsConnectRequest", "VerbsListener"]

log = logging.getLogger("iser.rdma.verbs")

BACKLOG: Final = 128
MAX_PENDING: Final = 64  # connections of one listener that are not accepted or refused yet; more are refused
MAX_PRIVATE_DATA: Final = 56  # bytes in a request; RoCE has no room for more, and iWARP loses some
RESOLVE_TIMEOUT: Final = 5.0  # seconds for the kernel to find an address and a route
ACCEPT_TIMEOUT: Final = 10.0  # seconds for a peer to confirm what we accepted
#: Reject reasons of the InfiniBand CM, and iWARP's way to say the second.
_NO_LISTENER: Final = 8
_REFUSED: Final = frozenset((28, -errno.ECONNRESET, -errno.ECONNREFUSED))
_NOBODY: Final = "nobody listens there; start the target, check the port"
_NO_DEVICE: Final = "no RDMA device is on the way there; choose provider=softiwarp"
_Address = tuple[int, tuple[Any, ...]]


class Verbs(Provider):
    """RDMA devices through rdma-core.  Devices are opened when a connection first needs them, and kept.

    Raises ResourceError, with the fix, when rdma-core, pyverbs or the permission to use them is missing.
    """

    name = "verbs"

    def __init__(self, options: VerbsOptions | None = None) -> None:
        self.options = options or VerbsOptions()
        self.library: CmLibrary = load_rdmacm()
        self._devices: dict[str, VerbsDevice] = {}
        self._channel: EventChannel | None = None

    async def connect(
        self,
        host: str,
        port: int,
        setup: Callable[[Device], QueuePair],
        params: ConnectionParams | Callable[[Device], ConnectionParams],
        timeout: float = 10.0,
    ) -> tuple[QueuePair, ConnectionInfo]:
        where = _name(host, port)
        attempt = _Attempt(self, where)
        try:
            async with asyncio.timeout(timeout):
                await attempt.resolve(host, port)
                info = await attempt.connect(setup, params)
        except BaseException as error:
            attempt.abandon()
            failed = _as_failed(error, where, timeout)
            if failed is None:
                raise
            raise failed from error
        assert attempt.qp is not None
        return attempt.qp, info

    async def listen(self, host: str, port: int, on_request: Callable[[ConnectRequest], Awaitable[None]]) -> Listener:
        where = _name(host, port)
        family, address = (await _resolve(host or "0.0.0.0", port, passive=True))[0]  # noqa: S104 - "" means any
        cm: CmId | None = None
        try:
            cm = self.channel().create_id()
            self.library.bind(cm.pointer, pack_address(family, address))
            self.library.listen(cm.pointer, BACKLOG)
        except OSError as error:
            if cm is not None:
                cm.destroy()
            raise ConnectionFailed(f"cannot listen on {where}: {_reason(error)}") from error
        return VerbsListener(self, cm, address[0], on_request)

    def channel(self) -> EventChannel:
        """The event channel of the running loop."""
        if self._channel is None or not self._channel.usable:
            self._channel = EventChannel(self.library)
        return self._channel

    def device_of(self, cm: CmId) -> VerbsDevice:
        """The device that an identifier is bound to."""
        return self.device(self.library.device_name(cm.pointer))

    def device(self, name: str) -> VerbsDevice:
        """An open device."""
        device = self._devices.get(name)
        if device is None or device.removed:
            device = self._devices[name] = VerbsDevice(name, self.options)
        return device

    def close(self) -> None:
        """Close the devices; nothing made of them may be in use."""
        for device in self._devices.values():
            device.close()
        self._devices.clear()


class _Attempt:
    """One try to connect, and what has to be undone when it fails."""

    def __init__(self, provider: Verbs, where: str) -> None:
        self.qp: VerbsQueuePair | None = None
        self._provider = provider
        self._library = provider.library
        self._where = where
        self._cm: CmId | None = None
        self._thread: asyncio.Future[None] | None = None

    async def resolve(self, host: str, port: int) -> None:
        """Find the device and the route.  Raises the error of the last address."""
        problem: Exception = ConnectionFailed(f"{self._where}: the name has no address")
        for family, address in await _resolve(host, port):
            cm = self._cm = self._provider.channel().create_id()
            try:
                self._library.resolve_addr(cm.pointer, pack_address(family, address), RESOLVE_TIMEOUT)
                await self._expect(cm, CmEventType.ADDR_RESOLVED)
                self._library.resolve_route(cm.pointer, RESOLVE_TIMEOUT)
                await self._expect(cm, CmEventType.ROUTE_RESOLVED)
            except (OSError, ConnectionFailed) as error:
                cm.destroy()
                self._cm = None
                problem = error
            else:
                return
        raise problem

    async def connect(
        self, setup: Callable[[Device], QueuePair], params: ConnectionParams | Callable[[Device], ConnectionParams]
    ) -> ConnectionInfo:
        """Make the queue pair and connect it."""
        cm, library = self._cm, self._library
        assert cm is not None
        device = self._provider.device_of(cm)
        qp = self.qp = _ours(setup(device))
        wanted = _within(params(device) if callable(params) else params, device)
        local, remote = library.addresses(cm.pointer)
        qp.prepare(cm, self._where)
        param, keep = _conn_param(wanted, qp)
        await self._call_connect(cm, param, in_thread=device.is_iwarp)
        del keep
        if device.is_iwarp:
            event = await self._expect(cm, CmEventType.ESTABLISHED)
        else:
            event = await self._expect(cm, CmEventType.CONNECT_RESPONSE)
            qp.step(cm, QPS_RTR)
            qp.step(cm, QPS_RTS)
        served = min(wanted.responder_resources, event.responder_resources)
        depth = min(wanted.initiator_depth, event.initiator_depth)
        qp.attach(depth, established=True)
        if not device.is_iwarp:
            library.establish(cm.pointer)
        return ConnectionInfo(event.private_data, served, depth, local, remote)

    def abandon(self) -> None:
        """Undo.  What a thread still uses goes when that has returned."""
        thread = self._thread
        if thread is None or thread.done():
            self._undo(None)
        else:
            thread.add_done_callback(self._undo)

    def _undo(self, thread: asyncio.Future[None] | None) -> None:
        if thread is not None and not thread.cancelled():
            thread.exception()  # seen; nobody waits for it any more
        if self.qp is not None:
            self.qp.discard()
        if self._cm is not None:
            self._cm.destroy()

    async def _call_connect(self, cm: CmId, param: ConnParam, *, in_thread: bool) -> None:
        if not in_thread:
            self._library.connect(cm.pointer, param)
            return
        # A thread of its own: the loop's pool would make the end of the program wait for it.
        loop = asyncio.get_running_loop()
        done = self._thread = loop.create_future()

        def settle(error: OSError | None) -> None:
            cm.unlock()
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            problem = None
            try:
                self._library.connect(cm.pointer, param)
            except OSError as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop has ended without us
                loop.call_soon_threadsafe(settle, problem)

        cm.lock()
        threading.Thread(target=run, name="rdma_connect", daemon=True).start()
        await asyncio.shield(done)

    async def _expect(self, cm: CmId, kind: CmEventType) -> CmEvent:
        event = await cm.next_event()
        if event.type is kind:
            return event
        raise _failure(event, self._where)


class VerbsConnectRequest(PendingRequest):
    """See :class:`iser.rdma.api.ConnectRequest`."""

    device: VerbsDevice

    def __init__(self, provider: Verbs, cm: CmId, event: CmEvent) -> None:
        self.device = provider.device_of(cm)
        self.answered = asyncio.Event()
        self._library = provider.library
        self._cm = cm
        self._taken = False
        local, remote = provider.library.addresses(cm.pointer)
        limits = self.device.attributes
        # Both depths come in our own terms.
        self.info = ConnectionInfo(
            event.private_data,
            min(event.responder_resources, limits.max_qp_rd_atom),
            min(event.initiator_depth, limits.max_qp_init_rd_atom),
            local,
            remote,
        )

    async def accept(self, qp: QueuePair, params: ConnectionParams) -> ConnectionInfo:
        self._answer()
        cm, info = self._cm, self.info
        ours = _ours(qp)
        where = _name(*info.remote_address)
        served = min(params.responder_resources, info.responder_resources)
        wanted = min(params.initiator_depth, info.initiator_depth)
        try:
            self._accept(ours, where, params, served, wanted)
            async with asyncio.timeout(ACCEPT_TIMEOUT):
                await ours.wait_established()
        except BaseException as error:
            ours.discard()
            cm.destroy()
            failed = _as_failed(error, where, ACCEPT_TIMEOUT)
            if failed is None:
                raise
            raise failed from error
        finally:
            self.answered.set()
        return ConnectionInfo(info.private_data, served, wanted, info.local_address, info.remote_address)

    def _accept(self, qp: VerbsQueuePair, where: str, params: ConnectionParams, served: int, wanted: int) -> None:
        cm = self._cm
        qp.prepare(cm, where)
        if not self.device.is_iwarp:
            qp.step(cm, QPS_RTR, served=served)
            qp.step(cm, QPS_RTS, wanted=wanted)
        agreed = ConnectionParams(params.private_data, served, wanted, params.retry_count, params.rnr_retry_count)
        param, keep = _conn_param(agreed, qp)
        # The peer's first message may come before its confirmation does.
        qp.attach(wanted, established=False)
        self._library.accept(cm.pointer, param)
        del keep

    async def reject(self, private_data: bytes = b"") -> None:
        self._answer()
        try:
            self._library.reject(self._cm.pointer, private_data)
        except OSError as error:
            log.debug("rejecting %s: %s", _name(*self.info.remote_address), error)
        finally:
            self._cm.destroy()
            self.answered.set()

    def _answer(self) -> None:
        if self._taken:
            raise UsageError("this connection request has been answered")
        self._taken = True


class VerbsListener(Listener):
    """See :class:`iser.rdma.api.Listener`."""

    def __init__(
        self, provider: Verbs, cm: CmId, host: str, on_request: Callable[[ConnectRequest], Awaitable[None]]
    ) -> None:
        self.address = (host, provider.library.source_port(cm.pointer))
        self._provider = provider
        self._cm = cm
        self._arrivals = Arrivals(on_request, self._release, log)
        self._pending = 0
        cm.handle(self._on_event)

    def _on_event(self, event: CmEvent) -> None:
        if event.type is not CmEventType.CONNECT_REQUEST:
            self._gone(event)
            return
        cm = CmId(self._cm.channel, event.identifier)
        if self._pending >= MAX_PENDING:
            log.warning("portal %s:%d: more than %d connections wait; one is refused", *self.address, MAX_PENDING)
            with contextlib.suppress(OSError):
                self._provider.library.reject(cm.pointer, b"")
            cm.destroy()
            return
        try:
            request = VerbsConnectRequest(self._provider, cm, event)
        except IserError as error:
            log.warning("portal %s:%d: %s", *self.address, error)
            cm.destroy()
            return
        self._pending += 1
        self._arrivals.hand_over(request)

    def _gone(self, event: CmEvent) -> None:
        if event.type is CmEventType.DEVICE_REMOVAL:
            log.warning("portal %s:%d is closed: its RDMA device was removed", *self.address)
            self._cm.destroy()
        else:
            log.info("portal %s:%d: %s", *self.address, event.type.name)

    def _release(self) -> None:
        self._pending -= 1

    async def close(self) -> None:
        self._cm.destroy()


def _ours(qp: QueuePair) -> VerbsQueuePair:
    if not isinstance(qp, VerbsQueuePair):
        raise UsageError("the queue pair was made by another provider")
    return qp


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _within(params: ConnectionParams, device: VerbsDevice) -> ConnectionParams:
    if len(params.private_data) > MAX_PRIVATE_DATA:
        raise UsageError(f"{len(params.private_data)} bytes of private data: give at most {MAX_PRIVATE_DATA}")
    limits = device.attributes
    return ConnectionParams(
        params.private_data,
        min(params.responder_resources, limits.max_qp_rd_atom),
        min(params.initiator_depth, limits.max_qp_init_rd_atom),
        params.retry_count,
        params.rnr_retry_count,
    )


def _conn_param(params: ConnectionParams, qp: VerbsQueuePair) -> tuple[ConnParam, object]:
    """The parameters, and what must be kept until they were used."""
    data = ctypes.create_string_buffer(params.private_data, max(1, len(params.private_data)))
    param = ConnParam(
        private_data=ctypes.addressof(data),
        private_data_len=len(params.private_data),
        responder_resources=params.responder_resources,
        initiator_depth=params.initiator_depth,
        retry_count=params.retry_count,
        rnr_retry_count=params.rnr_retry_count,
        qp_num=qp.number,
    )
    return param, data


async def _resolve(host: str, port: int, *, passive: bool = False) -> list[_Address]:
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise ConnectionFailed(f"{_name(host, port)}: {error.strerror or error}") from error
    return [(family, address) for family, _, _, _, address in found]


def _failure(event: CmEvent, where: str) -> ConnectionFailed:
    """What an event other than the one expected means."""
    kind, status = event.type, event.status
    if kind is CmEventType.REJECTED:
        if status in (_NO_LISTENER, -errno.ECONNREFUSED):
            return ConnectionFailed(f"cannot connect to {where}: {_NOBODY}")
        if status in _REFUSED:
            return ConnectionRejected(f"{where} refused the connection", event.private_data)
    if kind is CmEventType.ADDR_ERROR and status == -errno.ENODEV:
        return ConnectionFailed(f"cannot connect to {where}: {_NO_DEVICE}")
    what = _os_error_text(status) if status < 0 else f"status {status}"
    return ConnectionFailed(f"cannot connect to {where}: {kind.name.lower().replace('_', ' ')} ({what})")


def _os_error_text(status: int) -> str:
    """The text of a negative error number."""
    return os.strerror(-status) or errno.errorcode.get(-status, str(status))


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; end who has it, or take another"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the port is in use, or no RDMA device has the address"
    if error.errno == errno.ENODEV:
        return "no RDMA device has the address; choose provider=softiwarp"
    return error.strerror or str(error)


def _as_failed(error: BaseException, where: str, timeout: float) -> IserError | None:
    """The documented form of what went wrong on the way to ``where``; None for what passes as it is."""
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{where} did not answer within {timeout:g} s; is an RDMA listener there?")
    if isinstance(error, OSError):
        if error.errno == errno.ECONNREFUSED:
            return ConnectionFailed(f"cannot connect to {where}: {_NOBODY}")
        if error.errno == errno.ENODEV:
            return ConnectionFailed(f"cannot connect to {where}: {_NO_DEVICE}")
        return ConnectionFailed(f"cannot connect to {where}: {error.strerror or error}")
    if isinstance(error, IserError) or not isinstance(error, Exception):
        return None
    problem = device_error(f"connecting to {where}", error)
    return problem if isinstance(problem, ResourceError) else ConnectionFailed(str(problem))
