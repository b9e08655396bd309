"""A backend on a block device, past the page cache (O_DIRECT): what is acknowledged is on the device."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from iser.errors import BackendError, UsageError
from iser.sg import scatter, slice_views
from target.backends.aligned import AlignedBackend
from target.backends.base import Extent
from target.backends.file import DEFAULT_THREADS, FileBackend, open_file

__all__ = ["BOUNCE", "BlockBackend"]

#: Bytes of aligned memory that one request moves through when its own memory is not aligned.
BOUNCE: Final = 1 << 20

_BLKSSZGET: Final = 0x1268  # ioctl: bytes of a logical sector
_FILE_SECTOR: Final = 4096  # what direct access to a file of any file system takes

_Operation = Callable[[int, Sequence[memoryview], int, int], int]


class _DirectFile(FileBackend):
    """A file opened with O_DIRECT.  Offsets and lengths are multiples of ``sector``; memory may lie anywhere."""

    __slots__ = ("sector",)

    def __init__(self, path: str, size: int | None, block_size: int, *, read_only: bool, threads: int) -> None:
        super().__init__(path, size, block_size=block_size, read_only=read_only, threads=threads)
        self._inline = self._write_inline = False
        self.sector = _sector(self._fd)

    def _open(self, size: int | None) -> int:
        try:
            return open_file(self.name, size, read_only=self.read_only, flags=os.O_DIRECT)
        except BackendError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EINVAL:
                raise UsageError(f"{self.name} has no direct access; use backend = 'file' for it") from error
            raise

    def _map(self) -> None:
        """The page cache has nothing to do with direct access."""

    def _punches(self) -> bool:
        """A device is asked for by the kernel's word: it has no end to punch behind."""
        status = os.fstat(self._fd)
        if not stat.S_ISBLK(status.st_mode):
            return super()._punches()
        numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        limit = Path("/sys/dev/block", numbers, "queue/write_zeroes_max_bytes")
        try:
            return int(limit.read_text()) > 0
        except (OSError, ValueError):
            return False

    def _move(self, operation: _Operation, offset: int, buffers: Sequence[memoryview], flags: int) -> None:
        if all(not (len(buffer) | _address(buffer)) & self.sector - 1 for buffer in buffers):
            super()._move(operation, offset, buffers, flags)
            return
        length = sum(map(len, buffers))
        bounce = memoryview(mmap.mmap(-1, min(length, BOUNCE)))
        for done in range(0, length, BOUNCE):
            piece = bounce[: length - done]
            own = slice_views(buffers, done, len(piece))
            if operation is os.preadv:
                super()._move(operation, offset + done, [piece], flags)
                scatter(piece, own)
            else:
                piece[:] = b"".join(own)
                super()._move(operation, offset + done, [piece], flags)


def _sector(fd: int) -> int:
    """The unit of direct access."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return _FILE_SECTOR
    (size,) = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))
    return int(size)


def _address(buffer: memoryview) -> int:
    """Where ``buffer`` lies; an odd number for memory that cannot be written, whose address is not to be had."""
    return 1 if buffer.readonly or not len(buffer) else ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class BlockBackend(AlignedBackend):
    """The block device at ``path``, or a file, with direct access; arguments and errors as of :class:`FileBackend`.

    Raises UsageError, too, when its blocks are smaller than the sectors of the device.
    """

    __slots__ = ("_file",)

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | None = None,
        *,
        block_size: int = 512,
        read_only: bool = False,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        file = _DirectFile(os.fspath(path), size, block_size, read_only=read_only, threads=threads)
        self._file = file
        self.name = file.name
        self.read_only = read_only
        self.block_size = block_size
        self.sector = file.sector
        self.blocks = file.blocks
        self.capabilities = file.capabilities
        if block_size % self.sector:
            file.abandon()
            raise UsageError(f"{self.name} has sectors of {self.sector} bytes; set block_size = {self.sector}")

    async def _read(self, offset: int, buffers: Sequence[memoryview]) -> None:
        await self._file.readv(offset, buffers)

    async def _store(self, offset: int, buffers: Sequence[memoryview], fua: bool) -> None:
        await self._file.writev(offset, buffers, fua)

    async def flush(self) -> None:
        """See :meth:`Backend.flush`: the cache of the device."""
        await self._file.flush()

    async def discard(self, offset: int, length: int) -> None:
        """See :meth:`Backend.discard`."""
        hold = await self.ranges.acquire(offset, offset + length, exclusive=False)
        try:
            await self._file.discard(offset, length)
        finally:
            self.ranges.release(hold)

    async def extents(self, offset: int, length: int, limit: int) -> Sequence[Extent]:
        """See :meth:`Backend.extents`.  A device does not tell, so all of it is mapped; a file does."""
        return await self._file.extents(offset, length, limit)

    async def resize(self, size: int | None) -> None:
        """See :meth:`Backend.resize`."""
        await self._file.resize(size)
        self.blocks = self._file.blocks

    async def close(self) -> None:
        """See :meth:`Backend.close`."""
        await self._file.close()
