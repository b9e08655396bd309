"""Scatter-gather lists of every class, written and read back, every byte compared."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from initiator.lun import Lun
from initiator.shapes import Arena, layout
from iser.sg import SgClass

__all__ = ["FILLER", "check_blocks", "check_lists"]

FILLER: Final = bytes(range(251))  # no power of two, so that shifted memory shows


async def check_lists(lun: Lun, kind: SgClass, sizes: tuple[int, ...], seed: int, depth: int = 4) -> None:
    """Write ``depth`` lists of each size side by side, read them into other lists of the class, compare.

    Also the bytes around the elements.  Raises AssertionError.
    """
    randomness = random.Random(seed)
    for size in sizes:
        blocks = size // lun.capacity.block_size
        pairs = [tuple(Arena(layout(kind, size, randomness)) for _ in range(2)) for _ in range(depth)]
        for source, sink in pairs:
            source.fill(randomness.randbytes(8191))
            sink.fill(FILLER)
        await asyncio.gather(*(lun.write(n * blocks, source.views) for n, (source, _) in enumerate(pairs)))
        await asyncio.gather(*(lun.read_into(n * blocks, sink.views) for n, (_, sink) in enumerate(pairs)))
        for source, sink in pairs:
            assert b"".join(sink.views) == b"".join(source.views), (
                f"{size} bytes in {kind.value} lists came back changed"
            )
            _check_around(sink)


def _check_around(arena: Arena) -> None:
    expected = Arena(arena.elements)
    expected.fill(FILLER)
    for view, ours in zip(expected.views, arena.views, strict=True):
        view[:] = ours
    assert arena.memory == expected.memory, "bytes around the list's elements were touched"


async def check_blocks(lun: Lun, size: int, lba: int, seed: int) -> None:
    """Write ``size`` bytes from one buffer, read them into another, compare.  Raises AssertionError."""
    data = random.Random(seed).randbytes(size)
    await lun.write(lba, data)
    found = await lun.read(lba, size // lun.capacity.block_size)
    assert found == data, f"{size} bytes at LBA {lba} came back changed"
