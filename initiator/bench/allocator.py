"""Have the allocator of this process keep what was freed at hand, as a kernel's page allocator does.

Else large pieces come from the system and go back to it each time, and what a bounce allocates for each command would
cost the zeroing and mapping of every page anew, which no kernel pays for its own memory.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["KEPT", "keep_freed_memory"]

KEPT: Final = 512 << 20  # bytes that may lie idle
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 32 << 20  # what glibc takes as the limit to allocate without asking the system


def keep_freed_memory() -> bool:
    """For the rest of this process's life.  False where the C library is not glibc, which has its own ways then."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
