"""Which kind of file system a file lies on: fstatfs(2), which Python has no call for."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["in_memory"]

_STATFS: Final = 256  # bytes, more than struct statfs has anywhere
#: tmpfs and ramfs, of linux/magic.h.
_MEMORY: Final = frozenset((0x01021994, 0x858458F6))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)


def in_memory(fd: int) -> bool:
    """True where the file has no device behind it, so that reading and writing it takes no waiting."""
    buffer = ctypes.create_string_buffer(_STATFS)
    if _libc.fstatfs(fd, buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _MEMORY  # its first member is the type
