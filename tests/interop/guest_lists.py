"""Runs in the guest: ``python -m tests.interop.guest_lists DEVICE CLASS SIZE...``

Writes and reads scatter-gather lists of a class on a block device, past the page cache, and compares.  Exit code 95
(EOPNOTSUPP) where the kernel takes no such memory.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from typing import Final

from initiator.shapes import Arena, Element, layout
from iser.sg import SgClass

__all__ = ["main"]

_ADDRESSES: Final = 4  # alignment that direct I/O on SCSI disks asks of each element
_LENGTHS: Final = 512
_FREE: Final = (SgClass.SINGLE, SgClass.PAGE_VEC)  # classes that have lists aligned so, among others
_DEPTH: Final = 4


def main(device: str, name: str, *sizes: str) -> int:
    """The exit code."""
    kind = SgClass(name)
    randomness = random.Random(7)
    # O_DIRECT: the disk sees the list's memory itself.
    disk = os.open(device, os.O_RDWR | os.O_DIRECT)
    for size in map(int, sizes):
        for number in range(_DEPTH):
            source, sink = (Arena(_layout(kind, size, randomness)) for _ in range(2))
            source.fill(randomness.randbytes(8191))
            try:
                if os.pwritev(disk, source.views, number * size) != size:
                    sys.exit("short write")
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return errno.EOPNOTSUPP
                raise
            if os.preadv(disk, sink.views, number * size) != size:
                sys.exit("short read")
            if b"".join(sink.views) != b"".join(source.views):
                sys.exit(f"{size} bytes in {kind.value} lists came back changed")
    return 0


def _layout(kind: SgClass, size: int, randomness: random.Random) -> list[Element]:
    """A list of the class, one that direct I/O takes if there is any."""
    while True:
        elements = layout(kind, size, randomness)
        good = not any(offset % _ADDRESSES or length % _LENGTHS for offset, length in elements)
        if good or kind not in _FREE:
            return elements


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
