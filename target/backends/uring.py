"""Reads and writes of files by io_uring (io_uring(7), Linux 5.11 or newer), which Python has no calls for.

What one turn of the event loop asks for is handed over by one system call.  The kernel does on the spot what it can and
the rest in threads of its own, which do not compete for the interpreter as a pool of Python's threads does.

There is one :class:`Ring` for each event loop, shared by all that use it.  Where the kernel has none, or forbids it, as
many containers do, :meth:`Ring.shared` returns None, and a pool of threads has to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import struct
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

__all__ = ["ENTRIES", "MAX_IN_FLIGHT", "Ring"]

ENTRIES: Final = 64  # requests handed over by one system call
MAX_IN_FLIGHT: Final = 1024  # requests that have not ended; the ring of results has room for as many

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # system calls, the same on every architecture but alpha
_CQSIZE: Final = 1 << 3  # IORING_SETUP_CQSIZE
_SINGLE_MMAP: Final = 1 << 0  # IORING_FEAT_SINGLE_MMAP
_REGISTER_EVENTFD: Final = 4  # IORING_REGISTER_EVENTFD; its ASYNC form tells only of what the kernel's threads did
_OFF_RING, _OFF_SQES = 0, 0x10000000
_PARAMS: Final = struct.Struct("10I 10I 10I")  # struct io_uring_params
_SQE: Final = struct.Struct("BBHiQQIIQ24x")  # opcode, flags, priority, fd, offset, address, length, rw_flags, user_data
_CQE: Final = struct.Struct("QiI")  # user_data, result, flags
_U32: Final = struct.Struct("I")
_MASK: Final = 0xFFFFFFFF
_TOKENS: Final = 1 << 63
_LATER: Final = 0.001  # seconds until a kernel that has no resources is asked again

_libc = ctypes.CDLL(None, use_errno=True)
_enter = _libc.syscall
_rings: WeakKeyDictionary[asyncio.AbstractEventLoop, Ring] = WeakKeyDictionary()


class _Offsets(NamedTuple):
    """Where things are in the memory shared with the kernel, in bytes; the sizes are numbers of entries."""

    sq_entries: int
    cq_entries: int
    sq_tail: int
    sq_array: int
    cq_head: int
    cq_tail: int
    cqes: int


class _Job:
    """A request; ``memory`` keeps its buffer where it is, ``result`` is None until it has ended."""

    __slots__ = ("future", "memory", "result")

    def __init__(self, future: asyncio.Future[None], memory: object) -> None:
        self.future = future
        self.memory = memory
        self.result: int | None = None


class Ring:
    """Use :meth:`shared` and, as often, :meth:`release`."""

    READ: Final = 22  # IORING_OP_READ
    WRITE: Final = 23  # IORING_OP_WRITE

    __slots__ = (
        "_at",
        "_efd",
        "_fd",
        "_head",
        "_jobs",
        "_loop",
        "_next",
        "_queued",
        "_ring",
        "_scheduled",
        "_sqes",
        "_tail",
        "_users",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError where there is no io_uring."""
        self._loop = loop
        self._users = 0
        self._fd, self._at = _set_up()
        try:
            at = self._at
            size = max(at.sq_array + 4 * at.sq_entries, at.cqes + _CQE.size * at.cq_entries)
            self._ring = mmap.mmap(self._fd, size, offset=_OFF_RING)
            self._sqes = mmap.mmap(self._fd, _SQE.size * at.sq_entries, offset=_OFF_SQES)
            self._efd = _event_fd(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        for index in range(at.sq_entries):
            _U32.pack_into(self._ring, at.sq_array + 4 * index, index)
        self._tail = self._head = 0
        self._queued = 0  # requests that the kernel does not know of yet
        self._scheduled = False
        self._jobs: dict[int, _Job] = {}
        self._next = 0
        loop.add_reader(self._efd, self._on_event)

    @classmethod
    def shared(cls) -> Ring | None:
        """The ring of the running loop, for one user more; None where there is no io_uring."""
        loop = asyncio.get_running_loop()
        ring = _rings.get(loop)
        if ring is None:
            try:
                ring = _rings[loop] = cls(loop)
            except OSError:
                return None
        ring._users += 1
        return ring

    def release(self) -> None:
        """One user, whose requests have all ended, is gone; with the last of them goes the ring."""
        self._users -= 1
        if self._users:
            return
        _rings.pop(self._loop, None)
        self._loop.remove_reader(self._efd)
        self._ring.close()
        self._sqes.close()
        os.close(self._efd)
        os.close(self._fd)

    async def move(self, opcode: int, fd: int, memory: memoryview, offset: int) -> int:
        """READ into ``memory``, or WRITE from it, at ``offset``: bytes moved, as few as the system likes, or -errno.

        Returns -EBUSY when MAX_IN_FLIGHT requests are under way.  ``memory`` can be written.  A request outlives a
        cancellation of the caller, so that is waited out: it uses the memory.
        """
        if len(self._jobs) >= MAX_IN_FLIGHT:
            return -errno.EBUSY
        job = self._start(opcode, fd, memory, offset)
        try:
            await job.future
        except asyncio.CancelledError:
            while job.result is None:
                job.future = self._loop.create_future()
                with contextlib.suppress(asyncio.CancelledError):
                    await job.future
            raise
        assert job.result is not None
        return job.result

    def _start(self, opcode: int, fd: int, memory: memoryview, offset: int) -> _Job:
        pinned = ctypes.c_char.from_buffer(memory)
        self._next = token = (self._next + 1) % _TOKENS
        self._jobs[token] = job = _Job(self._loop.create_future(), pinned)
        index = self._tail & self._at.sq_entries - 1
        address = ctypes.addressof(pinned)
        _SQE.pack_into(self._sqes, index * _SQE.size, opcode, 0, 0, fd, offset, address, len(memory), 0, token)
        self._tail = self._tail + 1 & _MASK
        self._queued += 1
        if self._queued == self._at.sq_entries:
            self._hand_over()
        elif len(self._jobs) == 1:
            self._hand_over()  # nothing to wait for: it may be the only one
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        return job

    def _turn(self) -> None:
        self._scheduled = False
        self._hand_over()

    def _hand_over(self) -> None:
        """Tell the kernel what is queued, and take what has ended by then."""
        if self._queued:
            _U32.pack_into(self._ring, self._at.sq_tail, self._tail)
            done = _enter(_ENTER, self._fd, self._queued, 0, 0, None, 0)
            self._queued -= max(done, 0)
            if self._queued:
                self._try_later()
        self._reap()

    def _try_later(self) -> None:
        """The kernel is short of something.  What finds no place is refused, so that no entry is overwritten."""
        if self._queued == self._at.sq_entries:
            first = self._tail - self._queued & _MASK
            for number in range(self._queued):
                entry = (first + number & self._at.sq_entries - 1) * _SQE.size
                self._end(_SQE.unpack_from(self._sqes, entry)[-1], -errno.EBUSY)
            self._tail = first
            self._queued = 0
            _U32.pack_into(self._ring, self._at.sq_tail, first)
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_later(_LATER, self._turn)

    def _on_event(self) -> None:
        os.read(self._efd, 8)
        self._reap()

    def _reap(self) -> None:
        ring, at, head = self._ring, self._at, self._head
        (tail,) = _U32.unpack_from(ring, at.cq_tail)
        if head == tail:
            return
        while head != tail:
            token, result, _ = _CQE.unpack_from(ring, at.cqes + (head & at.cq_entries - 1) * _CQE.size)
            self._end(token, result)
            head = head + 1 & _MASK
        self._head = head
        _U32.pack_into(ring, at.cq_head, head)

    def _end(self, token: int, result: int) -> None:
        job = self._jobs.pop(token)
        job.result = result
        job.memory = None
        if not job.future.done():
            job.future.set_result(None)


def _set_up() -> tuple[int, _Offsets]:
    """The ring's file descriptor, and where things are in it.  Raises OSError."""
    params = bytearray(_PARAMS.size)
    _PARAMS.pack_into(params, 0, 0, MAX_IN_FLIGHT, _CQSIZE, *[0] * 27)
    fd = _libc.syscall(_SETUP, ENTRIES, (ctypes.c_char * len(params)).from_buffer(params))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    sq_entries, cq_entries, _, _, _, features, *rest = _PARAMS.unpack(params)
    if not features & _SINGLE_MMAP:
        os.close(fd)
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    sq, cq = rest[4:14], rest[14:24]
    # sq_off: head, tail, mask, entries, flags, dropped, array; cq_off: head, tail, mask, entries, overflow, cqes.
    return fd, _Offsets(sq_entries, cq_entries, sq[1], sq[6], cq[0], cq[1], cq[5])


def _event_fd(ring: int) -> int:
    """What tells of requests that have ended.  Raises OSError."""
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    if _libc.syscall(_REGISTER, ring, _REGISTER_EVENTFD, ctypes.byref(ctypes.c_int(fd)), 1) < 0:
        code = ctypes.get_errno()
        os.close(fd)
        raise OSError(code, os.strerror(code))
    return fd
