"""A backend in a file, by ``preadv`` and ``pwritev`` in a bounded pool of threads.

What needs no waiting is done in the calling thread, as a change of threads costs more than a small request: reads of
what the page cache has, reads and writes of a file in memory (tmpfs), which has no other place, and writes into the
page cache where the file system promises not to wait (XFS and Btrfs do, ext4 does not).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

from iser.errors import BackendError, UsageError
from target.backends.base import Backend, BackendCap, Extent, Source, check_bounds
from target.backends.crew import Crew
from target.backends.filesystem import in_memory
from target.backends.holes import file_extents, punch_hole
from target.backends.pagecache import PageCache, map_file

__all__ = ["DEFAULT_THREADS", "INLINE_LIMIT", "MAX_IOV", "FileBackend", "open_file"]

#: Threads per file, unless configured: how many requests the kernel sees at once.
DEFAULT_THREADS: Final = 8
#: Requests up to this many bytes are first tried in the calling thread, which takes as long as copying them.
INLINE_LIMIT: Final = 1 << 20
#: The most buffers of one system call; more are moved by several.
MAX_IOV: Final = min(1024, os.sysconf("SC_IOV_MAX"))

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_NO_NOWAIT = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))

#: The most bytes that are punched by one system call, so that a thread is not busy for ever.
_PUNCH: Final = 1 << 30

_Operation = Callable[[int, Sequence[memoryview], int, int], int]


class FileBackend(Backend):
    """The first ``size`` bytes of the file at ``path``; all of it, in whole blocks, when ``size`` is None.

    With a size, a file that does not exist is made, sparse.  The file is locked: a second target cannot open it for
    writing, nor can one be opened that is being written.  Opening does a little blocking work; do it at start-up.

    Raises UsageError when path, size and file do not fit together, BackendError when the system refuses.
    """

    __slots__ = ("_closed", "_crew", "_fd", "_inline", "_inline_flags", "_lost", "_memory", "_pages", "_write_inline")

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | None = None,
        *,
        block_size: int = 512,
        read_only: bool = False,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.name = os.fspath(path)
        self.block_size = block_size
        self.read_only = read_only
        self.capabilities = BackendCap.RESIZE | (BackendCap.NONE if read_only else BackendCap.WRITE_CACHE)
        if size is not None and (size <= 0 or size % block_size):
            raise UsageError(f"{self.name}: size {size} is not a positive multiple of the block size {block_size}")
        self._fd = self._open(size)
        try:
            _lock(self._fd, self.name, read_only=read_only)
            self.blocks = _usable(self._fd, self.name, size, create=not read_only) // block_size
            if not self.blocks:
                raise UsageError(f"{self.name} is smaller than one block of {block_size} bytes; give a size")
            if read_only or self._punches():
                self.capabilities |= BackendCap.DISCARD
        except BaseException:
            os.close(self._fd)
            raise
        self._crew = Crew(threads, "backend")
        self._closed = False
        self._memory = in_memory(self._fd)
        self._inline = self._write_inline = True  # try reads, and writes, in the calling thread
        self._inline_flags = 0 if self._memory else os.RWF_NOWAIT
        self._lost: OSError | None = None
        self._pages = self._map()

    def _map(self) -> PageCache | None:
        """What is mapped of the file, for :meth:`lend`."""
        return map_file(self._fd, self.size)

    def _open(self, size: int | None) -> int:
        return open_file(self.name, size, read_only=self.read_only)

    def _punches(self) -> bool:
        """Whether the file system can punch holes: it is asked for one behind the end of the file."""
        try:
            punch_hole(self._fd, os.lseek(self._fd, 0, os.SEEK_END), self.block_size)
        except OSError:
            return False
        return True

    async def readv(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """See :meth:`Backend.readv`.  What the page cache has is taken without a change of threads."""
        self._check_open()
        length = sum(map(len, buffers))
        check_bounds(self, offset, length)
        done = self._read_cached(offset, buffers) if self._inline and length <= INLINE_LIMIT else 0
        if done < length:
            await self._crew.run(self._move, os.preadv, offset + done, _skip(buffers, done), 0)

    def lend(self, offset: int, length: int) -> Sequence[memoryview] | None:
        """See :meth:`Backend.lend`: what the page cache has."""
        pages = self._pages
        if pages is None or offset + length > self.size:
            return None
        view = pages.lend(offset, length)
        return None if view is None else (view,)

    def readv_now(self, offset: int, buffers: Sequence[memoryview]) -> bool:
        """See :meth:`Backend.readv_now`."""
        length = sum(map(len, buffers))
        if not self._inline or length > INLINE_LIMIT or self._closed:
            return False
        return offset + length <= self.size and self._read_cached(offset, buffers) == length

    def writev_now(self, offset: int, buffers: Sequence[Source], fua: bool) -> bool:
        """See :meth:`Backend.writev_now`.  A file in memory is as safe after a plain write as it ever gets."""
        length = sum(map(len, buffers))
        if not self._write_inline or length > INLINE_LIMIT or self._closed or not self.ranges.shared:
            return False
        if (fua and (self._lost is not None or not self._memory)) or offset + length > self.size:
            return False
        try:
            return os.pwritev(self._fd, buffers[:MAX_IOV], offset, self._inline_flags) == length
        except OSError as error:
            self._write_inline = error.errno not in _NO_NOWAIT
            return False

    def _read_cached(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Bytes that could be read without waiting; whatever goes wrong is left to the pool to find again."""
        try:
            return os.preadv(self._fd, buffers[:MAX_IOV], offset, self._inline_flags)
        except OSError as error:
            self._inline = error.errno not in _NO_NOWAIT
            return 0

    async def writev(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        """See :meth:`Backend.writev`.  FUA is RWF_DSYNC: as fdatasync, for these bytes only."""
        self._check_open()
        check_bounds(self, offset, sum(map(len, buffers)), write=True)
        hold = await self.ranges.acquire(offset, offset + sum(map(len, buffers)), exclusive=False)
        try:
            await self._store(offset, buffers, fua)
        finally:
            self.ranges.release(hold)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        if fua:
            self._check_lost()
        await self._crew.run(self._move, os.pwritev, offset, buffers, os.RWF_DSYNC if fua else 0)

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`: a hole is punched."""
        self._check_open()
        check_bounds(self, offset, length, write=True)
        end = offset + length
        hold = await self.ranges.acquire(offset, end, exclusive=False)
        try:
            for start in range(offset, end, _PUNCH):
                await self._crew.run(self._punch, start, min(_PUNCH, end - start))
        finally:
            if self._pages is not None:
                self._pages.forget()  # or the next read would fill the hole again
            self.ranges.release(hold)

    def _punch(self, offset: int, length: int) -> None:
        try:
            punch_hole(self._fd, offset, length)
        except OSError as error:
            raise _mapped(error, self.name, "fallocate", offset) from error

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`: the file system's own data and holes."""
        self._check_open()
        check_bounds(self, offset, length)
        return await self._crew.run(self._find_extents, offset, length, limit)

    def _find_extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        try:
            return file_extents(self._fd, offset, length, limit, self.block_size)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a block device does not tell
                return [Extent(length, True)]
            raise _mapped(error, self.name, "lseek", offset) from error

    async def resize(self, size: int | None) -> None:
        """See :meth:`Backend.resize`.  Growing is sparse; None takes over the present length of the file."""
        self._check_open()
        self.blocks = await self._crew.run(self._resize, size) // self.block_size
        if self._pages is not None and self._pages.size < self.size:
            await self._crew.run(self._map_anew)

    def _resize(self, size: int | None) -> int:
        found = os.lseek(self._fd, 0, os.SEEK_END)
        wanted = found - found % self.block_size if size is None else size
        if wanted <= 0 or wanted % self.block_size:
            raise UsageError(f"{self.name}: size {wanted} is not a positive multiple of the block size")
        if wanted > found:
            if self.read_only:
                raise UsageError(f"{self.name} is read-only and has {found} bytes; it cannot grow to {wanted}")
            self._truncate(wanted)
        return wanted

    def _map_anew(self) -> None:
        """The file has grown; taking down an old mapping may take a while."""
        self._pages = self._map()

    def _truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise _mapped(error, self.name, "ftruncate") from error

    async def flush(self) -> None:
        """See :meth:`Backend.flush`: fdatasync.

        After a failed one the kernel may have dropped the writes it could not store, and would not say so again; so
        from then on every flush and every FUA write fails, until the file is opened anew.
        """
        self._check_open()
        await self._flush()

    async def _flush(self) -> None:
        self._check_lost()
        if not self.read_only:
            await self._crew.run(self._sync)

    async def close(self) -> None:
        """See :meth:`Backend.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._flush()
        finally:
            await asyncio.to_thread(self._end)
            os.close(self._fd)

    def _end(self) -> None:
        """Wait for what is running, and take the mapping down, if no answer is still being sent from it."""
        self._crew.shutdown()
        self._pages = None

    def abandon(self) -> None:
        """Close without a flush, before anything was done."""
        self._closed = True
        self._crew.shutdown()
        os.close(self._fd)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.name} is closed", medium=False)

    def _move(self, operation: _Operation, offset: int, buffers: Sequence[memoryview], flags: int) -> None:
        """All of ``buffers``, however few bytes the system moves at a time."""
        while buffers:
            try:
                done = operation(self._fd, buffers[:MAX_IOV], offset, flags)
            except OSError as error:
                raise _mapped(error, self.name, operation.__name__, offset) from error
            if not done:
                raise BackendError(
                    f"{self.name} ends at byte {offset}, before its {self.size}: who cut it?", offset=offset
                )
            offset += done
            buffers = _skip(buffers, done)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._lost = error
            raise _mapped(error, self.name, "fdatasync") from error

    def _check_lost(self) -> None:
        if self._lost is not None:
            raise _mapped(self._lost, self.name, "an earlier fdatasync") from self._lost


def _skip(buffers: Sequence[memoryview], done: int) -> Sequence[memoryview]:
    """What is left of ``buffers`` after ``done`` bytes; no empty ones at the front, so none at all when all is done."""
    for index, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *itertools.islice(buffers, index + 1, None)] if done else buffers[index:]
        done -= len(buffer)
    return ()


def open_file(path: str, size: int | None, *, read_only: bool, flags: int = 0) -> int:
    """Open the file at ``path``, made if a size is given and it may be written.  Raises BackendError."""
    create = os.O_CREAT if size is not None and not read_only else 0
    try:
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | create | flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        hint = "a read-only one is never made" if read_only else "give a size to have it made"
        raise BackendError(f"{path} does not exist; {hint}", medium=False) from error
    except OSError as error:
        raise BackendError(f"{path} cannot be opened: {error.strerror}", medium=False) from error


def _lock(fd: int, path: str, *, read_only: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        raise BackendError(f"{path} is in use by another target or LUN; stop that one first", medium=False) from error


def _usable(fd: int, path: str, size: int | None, *, create: bool) -> int:
    """The bytes to serve.  A new or empty file grows to ``size``; one that holds data is never grown or cut."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError(f"{path} is neither a file nor a block device")
    found = os.lseek(fd, 0, os.SEEK_END)
    if size is None or found >= size:
        return found if size is None else size
    if found or not create or not stat.S_ISREG(mode):
        raise UsageError(f"{path} has {found} bytes, less than the size {size}; lower the size or enlarge the file")
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise _mapped(error, path, "ftruncate") from error
    return size


def _mapped(error: OSError, path: str, operation: str, offset: int | None = None) -> BackendError:
    """The error of the system, in our tree: a full disk, a bad medium, or anything else as a fault of the machinery."""
    full = error.errno in _FULL
    medium = full or error.errno == errno.EIO
    where = "" if offset is None else f" at byte {offset}"
    return BackendError(f"{path}: {operation}{where}: {error.strerror}", medium=medium, space=full, offset=offset)
