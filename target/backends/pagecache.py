"""What the page cache has of a file, as memory for the kernel to send: the file is mapped, and nothing is copied.

Nobody in this process may look at such memory.  Where the file was cut, or its medium fails, a reader in Python would
be killed by SIGBUS; a system call that is given the memory fails with EFAULT, which ends one connection.

A fault for a page that is not there would hold up the event loop for as long as the disk takes, and in tmpfs it would
fill a hole.  So only what mincore(2) sees in memory is given.  It does not tell strangers (since Linux 5.2): the file
must be our own, or one that we could write.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from time import monotonic
from typing import Final

from iser.rdma.address import address_of
from target.backends.filesystem import coherent, in_memory

__all__ = ["KEEP", "LEAST_ON_DISK", "MAX_LOAN", "MAX_MAPPED", "PageCache", "map_file"]

#: Bytes of a file that are mapped at most: the tables that the kernel has for them are up to a 512th of that.
MAX_MAPPED: Final = 64 << 30
#: The most bytes given at a time, and the fewest of a file on a disk: the look takes as long as copying 16 KiB.
MAX_LOAN: Final = 16 << 20
LEAST_ON_DISK: Final = 32 << 10
#: Seconds that a file in memory is believed to stay as it was seen: its pages go only when somebody takes them away.
KEEP: Final = 0.5

_PAGE: Final = mmap.PAGESIZE
_STRETCH: Final = 2 << 20  # bytes that mincore is asked for at once
_PAGES: Final = _STRETCH // _PAGE
_ALL: Final = b"\1" * _PAGES  # a stretch that is in memory as a whole

_mincore = ctypes.PyDLL(None).mincore  # it keeps the interpreter's lock, as it waits for nothing
_mincore.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)
_seen = bytearray(_PAGES)  # what mincore found: 1 for a page in memory, else 0
_seen_at: Final = ctypes.addressof(ctypes.c_char.from_buffer(_seen))


class PageCache:
    """The first ``size`` bytes of a file.  Views that were given keep the mapping; it goes with the last of them."""

    __slots__ = ("_address", "_known", "_least", "_until", "_view", "size")

    def __init__(self, mapping: mmap.mmap, *, memory: bool) -> None:
        self._view = memoryview(mapping)
        self._address = address_of(self._view)
        self.size = len(mapping)
        self._least = 0 if memory else LEAST_ON_DISK
        self._known: dict[int, bytes] = {}  # pages in memory, by stretch; of files in memory only
        self._until = 0.0  # when that is to be forgotten

    def lend(self, offset: int, length: int) -> memoryview | None:
        """``length`` bytes from ``offset`` on, for the kernel alone; None where they are not all in memory."""
        end = offset + length
        stretch = offset // _STRETCH
        if monotonic() < self._until and self._known.get(stretch) is _ALL and (end - 1) // _STRETCH == stretch:
            return self._view[offset:end]  # as nearly always
        if not self._least <= length <= MAX_LOAN or end > self.size:
            return None
        present = self._asked(offset, end) if self._least else self._remembered(offset, end)
        return self._view[offset:end] if present else None

    def answers(self) -> bool:
        """May mincore be called?  A sandbox may have it that it is not."""
        return not _mincore(self._address, 1, _seen_at)

    def forget(self) -> None:
        """The file has lost pages."""
        self._known.clear()

    def _asked(self, offset: int, end: int) -> bool:
        start = offset - offset % _PAGE
        while start < end:
            length = min(_STRETCH, end - start)
            if _mincore(self._address + start, length, _seen_at) or _seen.find(0, 0, -(-length // _PAGE)) >= 0:
                return False
            start += length
        return True

    def _remembered(self, offset: int, end: int) -> bool:
        now = monotonic()
        if now >= self._until:
            self._known.clear()
            self._until = now + KEEP
        for start in range(offset - offset % _STRETCH, end, _STRETCH):
            pages = self._known.get(start // _STRETCH)
            if pages is None:
                pages = self._look(start, min(_STRETCH, self.size - start))
                self._known[start // _STRETCH] = pages
            if pages.find(0, max(0, offset - start) // _PAGE, -(-(end - start) // _PAGE)) >= 0:
                return False
        return True

    def _look(self, start: int, length: int) -> bytes:
        """For each page from ``start`` on whether it is in memory."""
        pages = -(-length // _PAGE)
        if _mincore(self._address + start, length, _seen_at):
            return bytes(pages)
        found = bytes(_seen[:pages])
        return _ALL if found == _ALL else found


def map_file(fd: int, size: int) -> PageCache | None:
    """The page cache of a file that is open; None where it cannot be mapped, or must not be."""
    memory = in_memory(fd)
    if not (memory or coherent(fd)) or not _told(fd):
        return None
    try:
        # Opened once more: the mapping keeps a descriptor, which would keep the lock of the file, too.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(own, min(size, MAX_MAPPED), mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(own)
    except (OSError, ValueError, OverflowError):  # no such file system, a file that was cut, no addresses left
        return None
    pages = PageCache(mapping, memory=memory)
    return pages if pages.answers() else None


def _told(fd: int) -> bool:
    """Does mincore say of this file what is so?"""
    return os.fstat(fd).st_uid == os.geteuid() or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)
