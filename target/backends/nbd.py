"""A backend on a Network Block Device server, through libnbd: whatever nbdkit or any other NBD server serves.

The library is loaded when the first such backend is opened.  Requests run side by side on one connection, driven by the
event loop: no threads.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Sequence
from typing import Final

from iser.errors import BackendError, UsageError
from target.backends.aligned import AlignedBackend, pieces, targets
from target.backends.base import BackendCap, Extent, check_bounds, merge_extents
from target.backends.libnbd import CompletionCallback, ExtentCallback, library

__all__ = ["MAX_REQUEST", "NbdBackend"]

#: The most bytes of one request to the server; more are moved by several (the protocol's own advice is 32 MiB).
MAX_REQUEST: Final = 8 << 20

#: The most bytes that are zeroed, and asked about, by one request.
_MAX_ZERO: Final = 1 << 30
_MAX_STATUS: Final = 1 << 30

_MINIMUM, _MAXIMUM = 0, 2  # of nbd_get_block_size
_FLAG_FUA = 0x01
_WANTS_READ, _WANTS_WRITE = 1, 2
_HOLE_AND_ZERO = 0x03  # of base:allocation
_CONTEXT: Final = b"base:allocation"
_FULL = frozenset((28, 122))  # ENOSPC, EDQUOT
_EIO = 5


class NbdBackend(AlignedBackend):
    """The export at ``uri``, such as ``nbd://host/export`` or ``nbd+unix:///?socket=/run/x``; all of it, or ``size``.

    Connecting does a little blocking work; do it at start-up.  A connection that is lost stays lost: every request
    fails from then on.  Raises UsageError for what does not fit together, BackendError when libnbd is missing or the
    server cannot be reached.
    """

    __slots__ = ("_error", "_fd", "_handle", "_library", "_loop", "_most", "_pending", "_writing")

    def __init__(self, uri: str, size: int | None = None, *, block_size: int = 512, read_only: bool = False) -> None:
        self.name = uri
        self.block_size = block_size
        self._library = library()
        self._handle: int | None = self._library.connect(uri, _CONTEXT)
        try:
            self.read_only = read_only
            self._negotiated(size)
        except BaseException:
            self._library.close(self._handle)
            raise
        self._fd = self._library.call("nbd_aio_get_fd", self._handle)
        #: By libnbd's cookie: the future of a request, and its arguments, whose memory has to live as long.
        self._pending: dict[int, tuple[asyncio.Future[None], int | None, tuple[object, ...]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = False
        self._error: BackendError | None = None

    def _negotiated(self, size: int | None) -> None:
        """Take over what the server said of its export."""
        ask = self._ask
        found = ask("nbd_get_size")
        if size is not None and size > found:
            raise UsageError(f"{self.name} has {found} bytes, less than the size {size}; lower the size")
        self.blocks = (found if size is None else size) // self.block_size
        if not self.blocks:
            raise UsageError(f"{self.name} is smaller than one block of {self.block_size} bytes")
        if not self.read_only and ask("nbd_is_read_only"):
            raise UsageError(f"{self.name} is read-only at its server; set read_only = true")
        self.sector = max(ask("nbd_get_block_size", _MINIMUM), 1)
        if self.block_size % self.sector:
            raise UsageError(f"{self.name} takes requests of {self.sector} bytes; set block_size = {self.sector}")
        self._most = min(ask("nbd_get_block_size", _MAXIMUM) or MAX_REQUEST, MAX_REQUEST)
        self.capabilities = BackendCap.WRITE_CACHE if ask("nbd_can_flush") else BackendCap.NONE
        if ask("nbd_can_zero") and ask("nbd_can_meta_context", _CONTEXT):
            self.capabilities |= BackendCap.DISCARD

    def _ask(self, function: str, *arguments: object) -> int:
        return self._library.call(function, self._handle, *arguments)

    async def _read(self, offset: int, buffers: Sequence[memoryview]) -> None:
        jobs = []
        for start, run in targets(offset, buffers, self._most):
            memory = (ctypes.c_char * len(run)).from_buffer(run)
            jobs.append(self._issue("nbd_aio_pread", memory, len(run), start, CompletionCallback(), 0, place=start))
        await self._all(jobs)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        late_fua = fua and not self._ask("nbd_can_fua")
        flags = _FLAG_FUA if fua and not late_fua else 0
        jobs = []
        for start, run in pieces(offset, buffers, self._most):
            kind = ctypes.c_char * len(run)
            memory = kind.from_buffer_copy(run) if run.readonly else kind.from_buffer(run)
            write = ("nbd_aio_pwrite", memory, len(run), start, CompletionCallback(), flags)
            jobs.append(self._issue(*write, place=start))
        await self._all(jobs)
        if late_fua:
            await self.flush()

    async def flush(self) -> None:
        """See :meth:`Backend.flush`."""
        if self.capabilities & BackendCap.WRITE_CACHE and not self.read_only:
            await self._all([self._issue("nbd_aio_flush", CompletionCallback(), 0)])

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`: zeros are written, which the server may turn into a hole."""
        check_bounds(self, offset, length, write=True)
        if (offset | length) & self.sector - 1:
            await self.writev(offset, [memoryview(bytes(length))], False)
            return
        hold = await self.ranges.acquire(offset, offset + length, exclusive=False)
        try:
            for start in range(offset, offset + length, _MAX_ZERO):
                count = min(_MAX_ZERO, offset + length - start)
                await self._all([self._issue("nbd_aio_zero", count, start, CompletionCallback(), 0)])
        finally:
            self.ranges.release(hold)

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`: what base:allocation says."""
        check_bounds(self, offset, length)
        entries: list[tuple[int, int]] = []
        callback = ExtentCallback.collect(entries)
        count = min(length, _MAX_STATUS)
        await self._all([self._issue("nbd_aio_block_status", count, offset, callback, CompletionCallback(), 0)])
        extents: list[Extent] = []
        left = length
        for size, flags in entries:
            merge_extents(extents, min(size, left), flags & _HOLE_AND_ZERO != _HOLE_AND_ZERO)
            left -= min(size, left)
        return _whole_blocks(extents, self.block_size, length)[:limit]

    async def close(self) -> None:
        """See :meth:`Backend.close`."""
        if self._handle is None:
            return
        try:
            await self.flush()
        finally:
            self._fail("is closed")
            self._library.close(self._handle)
            self._handle = None

    # Requests on their way

    def _issue(self, function: str, *arguments: object, place: int | None = None) -> asyncio.Future[None]:
        """Start a request, of the bytes at ``place`` if it moves some; the future ends with it."""
        if self._error is not None:
            raise self._error
        cookie = self._ask(function, *arguments)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._pending[cookie] = (future, place, arguments)
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._fd, self._ready, "nbd_aio_notify_read", _WANTS_READ)
        self._progress()
        return future

    async def _all(self, jobs: list[asyncio.Future[None]]) -> None:
        """Wait for every one, also when this is cancelled or one fails: they use the caller's memory."""
        waiting = asyncio.gather(*jobs, return_exceptions=True)
        try:
            results = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await asyncio.wait(jobs)
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _ready(self, function: str, direction: int) -> None:
        """The socket can be read or written."""
        try:
            if self._ask("nbd_aio_get_direction") & direction:
                self._ask(function)
            self._progress()
        except BackendError as error:
            self._fail(str(error))

    def _progress(self) -> None:
        """End the requests that are over, and watch the socket for what the rest needs."""
        while self._pending:
            cookie = self._library.plain("nbd_aio_peek_command_completed", self._handle)
            if cookie <= 0:
                break
            self._end(cookie)
        if self._gone():
            self._fail("the server has closed the connection")
            return
        writing = bool(self._ask("nbd_aio_get_direction") & _WANTS_WRITE)
        if writing != self._writing and self._loop is not None:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._fd, self._ready, "nbd_aio_notify_write", _WANTS_WRITE)
            else:
                self._loop.remove_writer(self._fd)

    def _gone(self) -> bool:
        """Whether the connection is over.  Its socket would be readable for ever."""
        ask = self._library.plain
        return ask("nbd_aio_is_closed", self._handle) > 0 or ask("nbd_aio_is_dead", self._handle) > 0

    def _end(self, cookie: int) -> None:
        future, place, _ = self._pending.pop(cookie)
        failed = self._library.plain("nbd_aio_command_completed", self._handle, cookie) < 0
        if future.done():
            return
        if not failed:
            future.set_result(None)
            return
        code = self._library.errno()
        full = code in _FULL
        medium = full or code == _EIO
        future.set_exception(BackendError(f"{self.name}: {os.strerror(code)}", medium=medium, space=full, offset=place))

    def _fail(self, what: str) -> None:
        """No request can succeed any more."""
        self._error = BackendError(f"{self.name}: {what}", medium=False)
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._loop = None
        pending, self._pending = self._pending, {}
        for future, *_ in pending.values():
            if not future.done():
                future.set_exception(self._error)


def _whole_blocks(extents: list[Extent], block_size: int, length: int) -> list[Extent]:
    """Cut what the server said to whole blocks: one that is mapped in part is mapped."""
    found: list[Extent] = []
    at = done = 0
    for size, mapped in extents:
        at += size
        end = min(at + -at % block_size if mapped else at - at % block_size, length)
        if end > done:
            merge_extents(found, end - done, mapped)
            done = end
    if not found:
        merge_extents(found, min(block_size, length), True)
    return found
