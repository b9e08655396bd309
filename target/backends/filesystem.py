"""Which kind of file system a file lies on: fstatfs(2), which Python has no call for."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["coherent", "in_memory"]

_STATFS: Final = 256  # bytes, more than struct statfs has anywhere
#: tmpfs and ramfs, of linux/magic.h.
_MEMORY: Final = frozenset((0x01021994, 0x858458F6))
#: ext2 to ext4, XFS, Btrfs and F2FS, of the same.  Not those of a network, whose pages may be older than the file.
_COHERENT: Final = frozenset((0xEF53, 0x58465342, 0x9123683E, 0xF2F52010))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)


def in_memory(fd: int) -> bool:
    """True where the file has no device behind it, so that reading and writing it takes no waiting."""
    return _kind(fd) in _MEMORY


def coherent(fd: int) -> bool:
    """True where a mapping of the file shows what reading it would: on a file system that is known for that."""
    return _kind(fd) in _COHERENT


def _kind(fd: int) -> int:
    """The type of the file system; 0 when it cannot be had."""
    buffer = ctypes.create_string_buffer(_STATFS)
    if _libc.fstatfs(fd, buffer):
        return 0
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF  # its first member is the type
