"""``iser demo``: each class of scatter-gather list out to a target and back, one STag each, every byte checked."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

import initiator
from initiator.loopback import target_process
from initiator.lun import Lun
from initiator.shapes import Arena, layout
from initiator.url import Url
from iser.errors import IserError
from iser.sg import SgClass, SgList, shape_of

__all__ = ["SIZES", "STRATEGIES", "Row", "VerificationError", "run", "show"]

STRATEGIES: Final = ("indirect", "bounce")
SIZES: Final = (64 << 10, 256 << 10, 1 << 20)  # bytes of one list
DEPTH: Final = 8  # lists on their way at once
ROUNDS: Final = 6  # of DEPTH lists for each size
SEED: Final = 20261121
_UNTOUCHED: Final = bytes(range(251))  # no power of two, so that shifted memory shows
_WIDTH: Final = 110  # columns of the table where there is no terminal to ask


_CAPTION: Final = (
    "indirect: all pieces of a list under one key, none copied; bounce: copied through memory of one piece.\n"
    "STag: the key that a command tells the target; target ops: RDMA Reads and Writes of the target.\n"
    "verified: lists that came back with the same SHA-256 and changed no byte beside their pieces."
)


@dataclass(slots=True)
class Row:
    """What one class cost under one strategy.  Counts are of both directions; times in seconds."""

    kind: SgClass
    strategy: str
    commands: int = 0
    stags: int = 0
    operations: int | None = None
    copied: int = 0
    written: int = 0
    write_time: float = 0.0
    read_time: float = 0.0
    verified: int = 0
    wrong: int = 0


class VerificationError(IserError):
    """Some bytes were not what they should be."""


@dataclass(slots=True)
class _Pair:
    """A list to write from, and one of another layout to read back into."""

    source: Arena
    sink: Arena


def _pairs(kind: SgClass, size: int, randomness: random.Random) -> list[_Pair]:
    pairs = []
    for _ in range(DEPTH):
        pair = _Pair(Arena(layout(kind, size, randomness)), Arena(layout(kind, size, randomness)))
        for arena in (pair.source, pair.sink):
            found = shape_of(SgList.of(arena.views, writable=True)).sg_class
            if found is not kind:
                raise VerificationError(f"the list meant as {kind.value} came out as {found.value}")
        pairs.append(pair)
    return pairs


async def _measure(lun: Lun, row: Row, pairs: Sequence[_Pair], size: int, randomness: random.Random) -> None:
    """Write and read back every pair; only the moving of data is timed."""
    blocks = size // lun.capacity.block_size
    for _ in range(ROUNDS):
        for pair in pairs:
            pair.source.fill(randomness.randbytes(8191))
            pair.sink.fill(_UNTOUCHED)
        start = time.perf_counter()
        await asyncio.gather(*(lun.write(n * blocks, pair.source.views) for n, pair in enumerate(pairs)))
        middle = time.perf_counter()
        await asyncio.gather(*(lun.read_into(n * blocks, pair.sink.views) for n, pair in enumerate(pairs)))
        row.write_time += middle - start
        row.read_time += time.perf_counter() - middle
        row.written += size * len(pairs)
        for pair in pairs:
            good = _digest(pair.source.views) == _digest(pair.sink.views) and _untouched(pair.sink)
            row.verified += good
            row.wrong += not good


def _digest(views: Sequence[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.digest()


def _untouched(arena: Arena) -> bool:
    """Whether the bytes around the elements are as they were."""
    length = len(arena.memory)
    pattern = (_UNTOUCHED * (length // len(_UNTOUCHED) + 1))[:length]
    at = 0
    for offset, size in sorted(arena.elements):
        if arena.memory[at:offset] != pattern[at:offset]:
            return False
        at = offset + size
    return arena.memory[at:] == pattern[at:]


async def _row(lun: Lun, kind: SgClass, strategy: str) -> Row:
    row = Row(kind, strategy)
    randomness = random.Random(SEED)  # noqa: S311 - the same lists in every run
    before, operations = lun.counters.copy(), lun.link.datamover.remote_operations
    for size in SIZES:
        await _measure(lun, row, _pairs(kind, size, randomness), size, randomness)
    spent = lun.counters.since(before)
    row.commands, row.stags, row.copied = spent.commands, spent.stags, spent.bytes_copied
    if operations is not None:
        row.operations = (lun.link.datamover.remote_operations or 0) - operations
    return row


async def measure(url: Url) -> list[Row]:
    """A row for each class and strategy, on the LUN at ``url``, whose first blocks are overwritten."""
    async with AsyncExitStack() as stack:
        luns = {}
        for strategy in STRATEGIES:
            # Without immediate data every write takes its STag, whatever its size.
            link = await initiator.connect(url, strategy=strategy, immediate_data=False, queue_depth=DEPTH)
            luns[strategy] = await stack.enter_async_context(link)
            await _row(link, SgClass.SINGLE, strategy)  # memory that is touched for the first time costs more
        return [await _row(lun, kind, strategy) for kind in SgClass for strategy, lun in luns.items()]


def show(rows: Sequence[Row], console: Console) -> None:
    """The table."""
    table = Table(title="One STag for each command, whatever the list", caption=_CAPTION, caption_justify="left")
    for name in ("class", "strategy"):
        table.add_column(name, no_wrap=True)
    for name in ("STags/cmd", "target ops/cmd", "bytes copied", "write MB/s", "read MB/s", "verified"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        operations = "-" if row.operations is None else _ratio(row.operations, row.commands)
        table.add_row(
            row.kind.value,
            row.strategy,
            _ratio(row.stags, row.commands),
            operations,
            f"{row.copied:,}",
            f"{row.written / row.write_time / 1e6:,.0f}",
            f"{row.written / row.read_time / 1e6:,.0f}",
            f"{row.verified}" if not row.wrong else f"{row.wrong} WRONG",
        )
    console.print(table)


def _ratio(count: int, commands: int) -> str:
    return f"{count // commands}" if not count % commands else f"{count / commands:.2f}"


@asynccontextmanager
async def _somewhere(url: Url | None) -> AsyncIterator[Url]:
    if url is not None:
        yield url
        return
    async with target_process() as own:
        yield own


async def run(url: Url | None = None) -> None:
    """The whole demonstration, on a target of its own unless ``url`` says where.

    Raises VerificationError if a byte differs.
    """
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    async with _somewhere(url) as where:
        whose = "a target process of our own" if url is None else "the target"
        console.print(f"{whose} at {where.portal}; lists of 64 KiB to 1 MiB, written and read back", highlight=False)
        rows = await measure(where)
    show(rows, console)
    wrong = sum(row.wrong for row in rows)
    if wrong:
        raise VerificationError(f"{wrong} lists came back changed; run again with --log debug and report it")
    total = sum(row.verified for row in rows)
    console.print(f"verified {total} transfers, {sum(row.written for row in rows):,} bytes", highlight=False)
