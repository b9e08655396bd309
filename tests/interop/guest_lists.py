"""Runs in the guest: ``python -m tests.interop.guest_lists DEVICE SIZE...``

Writes and reads scatter-gather lists of each class on a block device, past the page cache, and compares.  Prints a line
of JSON for each class, ``[class, what went wrong]``: "" where nothing did, :data:`NO_MEMORY` where the kernel takes no
such memory.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from typing import Final

from initiator.shapes import Arena, Element, layout
from iser.sg import SgClass

__all__ = ["NO_MEMORY", "main"]

NO_MEMORY: Final = "EINVAL"

_ADDRESSES: Final = 4  # alignment that direct I/O on SCSI disks asks of each element
_LENGTHS: Final = 512
_FREE: Final = (SgClass.SINGLE, SgClass.PAGE_VEC)  # classes that have lists aligned so, among others
_DEPTH: Final = 4


def main(device: str, *sizes: str) -> None:
    """All classes."""
    # O_DIRECT: the disk sees the list's memory itself.
    disk = os.open(device, os.O_RDWR | os.O_DIRECT)
    for kind in SgClass:
        sys.stdout.write(json.dumps([kind.value, _checked(disk, kind, sizes)]) + "\n")


def _checked(disk: int, kind: SgClass, sizes: tuple[str, ...]) -> str:
    randomness = random.Random(7)
    for size in map(int, sizes):
        for number in range(_DEPTH):
            source, sink = (Arena(_layout(kind, size, randomness)) for _ in range(2))
            source.fill(randomness.randbytes(8191))
            try:
                if os.pwritev(disk, source.views, number * size) != size:
                    return "short write"
                if os.preadv(disk, sink.views, number * size) != size:
                    return "short read"
            except OSError as error:
                return NO_MEMORY if error.errno == errno.EINVAL else str(error)
            if b"".join(sink.views) != b"".join(source.views):
                return f"{size} bytes came back changed"
    return ""


def _layout(kind: SgClass, size: int, randomness: random.Random) -> list[Element]:
    """A list of the class, one that direct I/O takes if there is any."""
    while True:
        elements = layout(kind, size, randomness)
        good = not any(offset % _ADDRESSES or length % _LENGTHS for offset, length in elements)
        if good or kind not in _FREE:
            return elements


if __name__ == "__main__":
    main(*sys.argv[1:])
