"""Bytes between files, pipes and LUNs, several chunks at a time and in bounded memory."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

from initiator.lun import Lun
from iser.errors import IserError, UsageError

__all__ = ["CHUNK", "DEPTH", "FileSink", "FileSource", "LunSink", "LunSource", "Sink", "Source", "copy"]

CHUNK: Final = 1 << 20  # bytes
DEPTH: Final = 8  # chunks on their way at once
_POLL: Final = 0.2  # seconds after which a thread that waits for input looks whether it should end


class Source(ABC):
    """Where bytes come from, in order.  ``size`` in bytes, None where nobody knows."""

    size: int | None

    @abstractmethod
    async def fetch(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` with what stands at ``offset``; less, or nothing, at the end.  Several may run at once."""


class Sink(ABC):
    """Where bytes go to, in order."""

    @abstractmethod
    async def store(self, offset: int, data: memoryview) -> None:
        """Take ``data`` for ``offset``.  Several may run at once."""

    @abstractmethod
    async def finish(self) -> None:
        """All has been stored."""


class LunSource(Source):
    """``blocks`` blocks from ``lba`` on.  Raises UsageError beyond the end."""

    def __init__(self, lun: Lun, lba: int = 0, blocks: int | None = None) -> None:
        capacity = lun.capacity
        if not 0 <= lba <= capacity.blocks:
            raise UsageError(f"LBA {lba} is not on the LUN, which has {capacity.blocks} blocks")
        count = capacity.blocks - lba if blocks is None else blocks
        if not 0 <= count <= capacity.blocks - lba:
            raise UsageError(f"{count} blocks from LBA {lba} on are not all on the LUN, which has {capacity.blocks}")
        self._lun = lun
        self._lba = lba
        self._block = capacity.block_size
        self.size: int = count * self._block

    async def fetch(self, offset: int, buffer: memoryview) -> int:
        """See :class:`Source`."""
        length = min(len(buffer), self.size - offset)
        if length > 0:
            await self._lun.read_into(self._lba + offset // self._block, buffer[:length])
        return max(length, 0)


class LunSink(Sink):
    """Blocks from ``lba`` on; ``size`` bytes will come, if that is known.

    With ``pad`` zeroes fill up a last block of which only a part comes, which is an error otherwise.
    """

    def __init__(self, lun: Lun, lba: int = 0, size: int | None = None, *, pad: bool = False) -> None:
        capacity = lun.capacity
        if not 0 <= lba <= capacity.blocks:
            raise UsageError(f"LBA {lba} is not on the LUN, which has {capacity.blocks} blocks")
        self._lun = lun
        self._lba = lba
        self._block = capacity.block_size
        self._room = (capacity.blocks - lba) * self._block
        self._pad = pad
        if size is not None:
            self._check(0, size)

    async def store(self, offset: int, data: memoryview) -> None:
        """See :class:`Sink`.  Raises UsageError beyond the end, and for a part of a block, once the rest is written."""
        self._check(offset, len(data), partial=True)
        rest = len(data) % self._block
        lba = self._lba + offset // self._block
        if not rest:
            await self._lun.write(lba, data)
        elif self._pad:
            await self._lun.write(lba, [data, bytes(self._block - rest)])
        else:
            await self._lun.write(lba, data[: len(data) - rest])
            raise self._partial(rest)

    async def finish(self) -> None:
        """Have it reach the medium."""
        await self._lun.flush()

    def _check(self, offset: int, length: int, *, partial: bool = False) -> None:
        if offset + length > self._room:
            raise UsageError(f"the input has more than the {self._room} bytes that the LUN has from LBA {self._lba} on")
        rest = length % self._block
        if rest and not partial and not self._pad:
            raise self._partial(rest)

    def _partial(self, rest: int) -> UsageError:
        return UsageError(
            f"the input ends with {rest} bytes of a block of {self._block}; use --pad to fill it up with zeroes"
        )


class _File:
    """A file descriptor that threads read and write in order."""

    def __init__(self, descriptor: int, name: str, *, owned: bool) -> None:
        self._descriptor = descriptor
        self._name = name
        self._owned = owned
        self._closed = False
        self._order = asyncio.Lock()  # first come, first served

    def close(self) -> None:
        """Let go of it, once a thread that uses it has noticed."""
        self._closed = True
        if self._owned:
            self._owned = False
            os.close(self._descriptor)

    def _error(self, error: OSError) -> IserError:
        return IserError(f"{self._name}: {error.strerror or error}")


class FileSource(_File, Source):
    """A file, or what comes through a pipe."""

    def __init__(self, descriptor: int, name: str, *, owned: bool) -> None:
        super().__init__(descriptor, name, owned=owned)
        status = os.fstat(descriptor)
        self.size = status.st_size - _position(descriptor) if stat.S_ISREG(status.st_mode) else None
        self._ended = False

    @classmethod
    def open(cls, path: str) -> FileSource:
        """The file at ``path``, or standard input for ``-``.  Raises UsageError."""
        if path == "-":
            return cls(0, "standard input", owned=False)
        return cls(_open(path, os.O_RDONLY), path, owned=True)

    async def fetch(self, offset: int, buffer: memoryview) -> int:
        """See :class:`Source`."""
        del offset
        async with self._order:
            return await asyncio.to_thread(self._fill, buffer)

    def _fill(self, buffer: memoryview) -> int:
        got = 0
        try:
            while got < len(buffer) and not self._closed and not self._ended:
                # A thread cannot be interrupted, so it must not sleep in a read from a terminal or a pipe.
                if self.size is None and not select.select((self._descriptor,), (), (), _POLL)[0]:
                    continue
                count = os.readv(self._descriptor, (buffer[got:],))
                self._ended = not count  # a terminal would ask for more
                got += count
        except OSError as error:
            raise self._error(error) from None
        return got


class FileSink(_File, Sink):
    """A file, or a pipe."""

    @classmethod
    def open(cls, path: str) -> FileSink:
        """The file at ``path``, made or emptied, or standard output for ``-``.  Raises UsageError."""
        if path == "-":
            return cls(1, "standard output", owned=False)
        return cls(_open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), path, owned=True)

    async def store(self, offset: int, data: memoryview) -> None:
        """See :class:`Sink`.  Raises BrokenPipeError when nobody reads any more, IserError for other faults."""
        del offset
        async with self._order:
            await asyncio.to_thread(self._drain, data)

    async def finish(self) -> None:
        """See :class:`Sink`.  The kernel has it all."""

    def _drain(self, data: memoryview) -> None:
        try:
            while len(data) and not self._closed:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise self._error(error) from None


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _position(descriptor: int) -> int:
    return os.lseek(descriptor, 0, os.SEEK_CUR)


async def copy(source: Source, sink: Sink, progress: Callable[[int], None] | None = None) -> int:
    """Copy all of ``source``, with DEPTH chunks on their way; returns the bytes.  ``progress`` hears of each chunk.

    On an error what is on its way is cancelled, and has ended when the error is raised.
    """
    buffers = [memoryview(bytearray(CHUNK)) for _ in range(DEPTH)]
    fetches: deque[tuple[int, memoryview, asyncio.Task[int]]] = deque()
    stores: deque[tuple[int, memoryview, asyncio.Task[None]]] = deque()
    begun = done = 0
    ended = False
    try:
        while True:
            while buffers and not ended:
                buffer = buffers.pop()
                fetches.append((begun, buffer, asyncio.create_task(source.fetch(begun, buffer))))
                begun += CHUNK
                ended = source.size is not None and begun >= source.size
            if fetches:
                offset, buffer, fetch = fetches.popleft()
                length = await fetch
                ended = ended or length < CHUNK
                if length:
                    stores.append((length, buffer, asyncio.create_task(sink.store(offset, buffer[:length]))))
            # Wait for a store only where there is nothing to fetch, or nothing to fetch into.
            while stores and (stores[0][2].done() or not (fetches or (buffers and not ended))):
                length, buffer, store = stores.popleft()
                await store
                buffers.append(buffer)
                done += length
                if progress:
                    progress(length)
            if not stores and not fetches and ended:
                await sink.finish()
                return done
    finally:
        left: list[asyncio.Task[int] | asyncio.Task[None]] = [item[2] for item in fetches]
        left += [item[2] for item in stores]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
