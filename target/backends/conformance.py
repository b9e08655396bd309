"""A checker that any backend can be run through: what the device server relies on, on a store that may be overwritten.

It is public, so that who writes a backend can use it: ``await check_backend(backend)``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Final

from iser.errors import BackendError, UsageError
from target.backends.base import Backend, BackendCap

__all__ = ["MIN_SIZE", "check_backend"]

#: The least bytes that the checker needs.
MIN_SIZE: Final = 256 << 10
_TURNS: Final = 40


async def check_backend(backend: Backend, seed: int = 7145) -> list[str]:
    """Run every check on the first MIN_SIZE bytes, which are overwritten; one sentence for each that failed.

    An empty list is a backend that keeps the contract.  It is left open.  Raises UsageError for a store that is too
    small or read-only.
    """
    if backend.read_only or backend.size < MIN_SIZE:
        raise UsageError(f"{backend.name}: the checker needs {MIN_SIZE} bytes that it may overwrite")
    checks: tuple[Callable[[Backend, random.Random], Awaitable[str | None]], ...] = (
        _attributes,
        _vectors,
        _at_once,
        _bounds,
        _flushes,
        _views,
        _updates,
        _discards,
        _extents,
    )
    failures = []
    for check in checks:
        try:
            failure = await check(backend, random.Random(seed))  # noqa: S311 - test data
        except BackendError as error:
            failure = f"failed: {error}"
        if failure:
            failures.append(f"{backend.name}: {check.__name__.strip('_')}: {failure}")
    return failures


async def _read(backend: Backend, offset: int, length: int) -> bytes:
    data = bytearray(b"\xee" * length)
    await backend.readv(offset, [memoryview(data)])
    return bytes(data)


async def _write(backend: Backend, offset: int, data: bytes, *, fua: bool = False) -> None:
    await backend.writev(offset, [memoryview(data)], fua)


async def _attributes(backend: Backend, rng: random.Random) -> str | None:
    del rng
    if backend.block_size not in (512, 4096) or backend.blocks * backend.block_size != backend.size:
        return f"{backend.blocks} blocks of {backend.block_size} bytes do not make {backend.size} bytes"
    return None if backend.name else "it has no name"


async def _vectors(backend: Backend, rng: random.Random) -> str | None:
    """Writes and reads of any offset, list of buffers and alignment, against plain bytes."""
    model = bytearray(MIN_SIZE)
    await _write(backend, 0, bytes(model))
    for turn in range(_TURNS):
        lengths = [rng.choice([0, 1, 511, 512, 4096, rng.randrange(20000)]) for _ in range(rng.randrange(6))]
        total = sum(lengths)
        offset = rng.randrange(MIN_SIZE - total + 1)
        buffers = [memoryview(bytearray(rng.randbytes(length))) for length in lengths]
        if turn % 2:
            await backend.writev(offset, buffers, turn % 3 == 0)
            model[offset : offset + total] = b"".join(buffers)
            continue
        await backend.readv(offset, buffers)
        if b"".join(buffers) != model[offset : offset + total]:
            return f"{len(buffers)} buffers of {total} bytes read at {offset} are not what was written"
    whole = await _read(backend, 0, MIN_SIZE)
    return None if whole == model else "after writes of many buffers, the store is not what was written"


async def _at_once(backend: Backend, rng: random.Random) -> str | None:
    """What is done without waiting is done as well."""
    data = rng.randbytes(4096)
    await _write(backend, 512, bytes(len(data)))
    if not backend.writev_now(512, [memoryview(data)[:100], data[100:]], False):
        await _write(backend, 512, data)
    if await _read(backend, 512, len(data)) != data:
        return "what was written at once is not what is read"
    seen = bytearray(len(data))
    done = backend.readv_now(512, [memoryview(seen)[:100], memoryview(seen)[100:]])
    return "what is read at once is not what was written" if done and seen != data else None


async def _bounds(backend: Backend, rng: random.Random) -> str | None:
    """What lies outside is refused, and nothing of it is done."""
    del rng
    before = await _read(backend, backend.size - 512, 512)
    for offset, length in ((backend.size, 1), (backend.size - 511, 512), (-1, 1)):
        for attempt in (partial(_read, backend, offset, length), partial(_write, backend, offset, b"\xff" * length)):
            try:
                await attempt()
            except UsageError:
                continue
            return f"{length} bytes at {offset} are out of bounds and not refused with UsageError"
    return None if await _read(backend, backend.size - 512, 512) == before else "a refused write changed the store"


async def _flushes(backend: Backend, rng: random.Random) -> str | None:
    data = rng.randbytes(4096)
    await _write(backend, 0, data)
    await backend.flush()
    await backend.flush()
    return None if await _read(backend, 0, 4096) == data else "a flush changed the store"


async def _views(backend: Backend, rng: random.Random) -> str | None:
    views = backend.views(512, 4096)
    if bool(backend.capabilities & BackendCap.VIEWS) != (views is not None):
        return "views() and the capability VIEWS do not agree"
    if views is None:
        return None
    data = rng.randbytes(4096)
    await _write(backend, 512, data)
    seen = b"".join(views)
    for view in views:
        view.release()
    return None if seen == data else "views() shows other bytes than were written"


async def _updates(backend: Backend, rng: random.Random) -> str | None:
    """Fifty concurrent increments of one number lose none; plain writes beside them are not lost either."""
    del rng
    await _write(backend, 0, bytes(1024))

    def increment(data: bytearray) -> bool:
        data[:8] = (int.from_bytes(data[:8], "big") + 1).to_bytes(8, "big")
        return True

    await asyncio.gather(
        *(backend.update(0, 512, increment, False) for _ in range(50)),
        *(_write(backend, 512, bytes((turn,)) * 512) for turn in range(50)),
    )
    count = int.from_bytes(await _read(backend, 0, 8), "big")
    if count != 50:
        return f"of 50 concurrent updates {50 - count} were lost"
    await backend.update(0, 512, _spoil, False)
    return None if (await _read(backend, 0, 8))[-1] == 50 else "an update that changes nothing wrote"


def _spoil(data: bytearray) -> bool:
    """A change that is not to be written."""
    data[:] = bytes(len(data))
    return False


async def _discards(backend: Backend, rng: random.Random) -> str | None:
    if not backend.capabilities & BackendCap.DISCARD:
        return None
    model = bytearray(rng.randbytes(MIN_SIZE))
    await _write(backend, 0, bytes(model))
    for offset, length in ((0, 512), (4096, 8192), (20480 + 512, 3 * 4096), (MIN_SIZE - 1024, 1024)):
        await backend.discard(offset, length)
        model[offset : offset + length] = bytes(length)
    return None if await _read(backend, 0, MIN_SIZE) == model else "discarded bytes do not read as zeros, or others do"


async def _extents(backend: Backend, rng: random.Random) -> str | None:
    """All is told about, in whole blocks, and no data in what is said to be unmapped."""
    await _write(backend, 0, rng.randbytes(MIN_SIZE))
    if backend.capabilities & BackendCap.DISCARD:
        await backend.discard(64 << 10, 64 << 10)
    offset = 0
    while offset < MIN_SIZE:
        extents = await backend.extents(offset, MIN_SIZE - offset, 4)
        if not 1 <= len(extents) <= 4 or any(one.mapped == other.mapped for one, other in pairwise(extents)):
            return f"the extents from {offset} on are not 1 to 4 that alternate"
        for length, mapped in extents:
            if length <= 0 or length % backend.block_size:
                return f"an extent of {length} bytes is not whole blocks"
            if not mapped and any(await _read(backend, offset, length)):
                return f"{length} bytes at {offset} hold data and are said to be unmapped"
            offset += length
    return None if offset == MIN_SIZE else "the extents reach further than was asked"
