"""Which pages of our own memory were ever written: /proc/self/pagemap of the Linux kernel (admin-guide/mm/pagemap)."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

__all__ = ["untouched_pages"]

_PAGEMAP: Final = Path("/proc/self/pagemap")
_ENTRY: Final = 8
# The highest byte of an entry: present, swapped, of a file or shared, and mapped by us alone.
_PRESENT, _SWAPPED, _EXCLUSIVE = 0x80, 0x40, 0x01


def untouched_pages(address: int, count: int) -> list[bool | None]:
    """For ``count`` pages from ``address`` on: True for no page, False for one of ours, None where a look is needed.

    None is for a page that is present but not marked as ours alone, such as the page of zeros which a read of untouched
    memory maps.  Where the kernel has no such table, every page is taken for one of ours.
    """
    try:
        with _PAGEMAP.open("rb", buffering=0) as file:
            file.seek(address // mmap.PAGESIZE * _ENTRY)
            entries = file.read(count * _ENTRY)
    except OSError:
        entries = b""
    flags = entries[_ENTRY - 1 :: _ENTRY]
    return [_VERDICT[flag] for flag in flags] + [False] * (count - len(flags))


def _verdict(flag: int) -> bool | None:
    if flag & _SWAPPED or flag & _EXCLUSIVE:
        return False
    return None if flag & _PRESENT else True


_VERDICT: Final = tuple(_verdict(flag) for flag in range(256))
