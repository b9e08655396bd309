"""Scatter-gather lists of every class, as one key: what memory a key means is the initiator's business alone."""

from __future__ import annotations

import random
from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.cases.data import fresh
from initiator.conformance.site import Site
from initiator.conformance.verdict import require
from initiator.shapes import MIN_ELEMENTS, Arena, layout
from iser.rdma.api import Access
from iser.scsi.cdb import read_blocks, write_blocks
from iser.sg import SgClass

__all__ = ["CASES"]

_PAGE: Final = 4096
_SIZES: Final = (MIN_ELEMENTS * _PAGE, 16 * _PAGE)
_FILLER: Final = bytes(range(251))  # no power of two, so that shifted memory shows


def _read(kind: SgClass) -> Any:
    async def run(site: Site) -> None:
        async with site.session() as session:
            for size in _sizes(site):
                plain = await session.read(0, size // site.block_size)
                arena = Arena(layout(kind, size, random.Random(size)))  # noqa: S311 - no secret
                arena.fill(_FILLER)
                region = session.register(arena.views, Access.LOCAL_WRITE | Access.REMOTE_WRITE)
                await session.good(read_blocks(0, size // site.block_size), read=region)
                require(b"".join(arena.views) == plain, f"{size} bytes read to a {kind.value} list are other bytes")
                _check_around(arena)

    return run


def _write(kind: SgClass) -> Any:
    async def run(site: Site) -> None:
        async with site.session() as session:
            for size in _sizes(site):
                arena = Arena(layout(kind, size, random.Random(size)))  # noqa: S311 - no secret
                arena.fill(fresh(8191))
                region = session.register(arena.views, Access.REMOTE_READ)
                await session.good(write_blocks(0, size // site.block_size), write=region)
                found = await session.read(0, size // site.block_size)
                wanted = b"".join(arena.views)
                require(found == wanted, f"{size} bytes written from a {kind.value} list were stored as other bytes")

    return run


def _sizes(site: Site) -> list[int]:
    most = min(site.scratch * site.block_size, site.max_transfer)
    return [size for size in _SIZES if size <= most and size % site.block_size == 0]


def _check_around(arena: Arena) -> None:
    expected = Arena(arena.elements)
    expected.fill(_FILLER)
    for view, ours in zip(expected.views, arena.views, strict=True):
        view[:] = ours
    require(arena.memory == expected.memory, "bytes around the elements of a list were touched")


def _name(kind: SgClass) -> str:
    return kind.value.lower().replace("_", "-")


CASES: Final = (
    *(Case(f"read-{_name(kind)}", f"reads to {kind.value} lists", "RFC 7145 8.3", _read(kind)) for kind in SgClass),
    *(
        Case(f"write-{_name(kind)}", f"writes from {kind.value} lists", "RFC 7145 8.3", _write(kind), destructive=True)
        for kind in SgClass
    ),
)
