"""Holes in files: punching them, which Python has no call for, and finding them."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from target.backends.base import Extent, merge_extents

__all__ = ["file_extents", "punch_hole"]

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Deallocate the whole blocks among ``length`` bytes and zero the rest of them.  Raises OSError."""
    while _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def file_extents(fd: int, offset: int, length: int, limit: int, block_size: int) -> list[Extent]:
    """Data and holes as the file system tells them, in whole blocks.  Raises OSError."""
    extents: list[Extent] = []
    start, end = offset, offset + length
    while start < end and len(extents) <= limit:
        data = _seek(fd, start, os.SEEK_DATA, end)
        data -= data % block_size  # a block with some data is mapped
        if data > start:
            merge_extents(extents, data - start, False)
            start = data
            continue
        hole = _seek(fd, start, os.SEEK_HOLE, end)
        hole = min(max(hole + -hole % block_size, start + block_size), end)
        merge_extents(extents, hole - start, True)
        start = hole
    return extents[:limit]


def _seek(fd: int, start: int, whence: int, end: int) -> int:
    """Where the next data or hole starts; ``end`` when there is none before it."""
    try:
        return min(os.lseek(fd, start, whence), end)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end
