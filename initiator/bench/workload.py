"""Buffers, data and expectations of one group of cases."""

from __future__ import annotations

import hashlib
import mmap
import random
from collections.abc import Sequence
from typing import Any, Final

from initiator.bench.shapes import Layout, lay
from iser.errors import IserError
from iser.sg import SgList, shape_of
from iser.sg.shape import flags_of

__all__ = ["MAX_ARENA", "MAX_SPAN", "VerificationError", "Workload"]

MAX_ARENA: Final = 256 << 20  # bytes of address space for all lists; with more workers, several share one list
MAX_SPAN: Final = 64 << 20  # bytes of the LUN that are used
MIX_LISTS: Final = 200  # lists of a mixture, so that one in a hundred is among them
VERIFIED: Final = 2  # lists whose every byte is compared, before and after the time is taken
_GUARD: Final = bytes(range(1, 252))


class VerificationError(IserError):
    """Some bytes were not what they should be."""


class Workload:
    """Lists of one shape and size in one arena, each with its own place on the LUN."""

    def __init__(self, shape: str, size: int, depth: int, seed: int) -> None:
        self.shape = shape
        self.size = size
        wanted = MIX_LISTS if shape.startswith("Smix") else depth
        layouts: list[Layout] = []
        room = MAX_ARENA
        for serial in range(wanted):
            layout = lay(shape, size, seed, serial)
            room -= layout.arena
            if layouts and room < 0:
                break
            layouts.append(layout)
        memory = memoryview(mmap.mmap(-1, sum(layout.arena for layout in layouts)))
        self.parts: list[memoryview] = []
        self.lists: list[SgList] = []
        self.spans = [layout.spans for layout in layouts]
        at = 0
        for layout in layouts:
            self.parts.append(memory[at : at + layout.arena])
            self.lists.append(SgList.spans(memory, [(at + offset, length) for offset, length in layout.spans]))
            at += layout.arena
        places = min(len(layouts), MAX_SPAN // size)
        self.offsets = [number % places * size for number in range(len(layouts))]
        randomness = random.Random(f"data/{seed}/{shape}/{size}")  # noqa: S311 - the same data in every run
        self.data = [randomness.randbytes(size) for _ in range(min(places, VERIFIED))]

    @property
    def digest(self) -> str:
        """SHA-256 of the data that is verified."""
        return hashlib.sha256(b"".join(self.data)).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the first list looks like."""
        sg = self.lists[0]
        shape = shape_of(sg)
        flags = flags_of(sg, shape, max_entries=4096)
        return {
            "class": shape.sg_class.value,
            "elements": shape.elements,
            "gaps": shape.gaps,
            "blocks": shape.blocks,
            "blocks_512": shape_of(sg, 512).blocks,
            "flags": [flag.name for flag in flags],
            "lists": len(self.lists),
        }

    def fill(self, index: int) -> None:
        """Put the data into list ``index``, to be written."""
        self.lists[index].scatter(memoryview(self.data[index]))

    def guard(self, index: int) -> None:
        """Put a pattern all over the part of the arena that list ``index`` lies in, to be read into."""
        part = self.parts[index]
        part[:] = (_GUARD * (len(part) // len(_GUARD) + 1))[: len(part)]

    def check_list(self, index: int, what: str) -> None:
        """Every byte of the data must be in list ``index``, in order, and none beside it.  Raises VerificationError."""
        part = self.parts[index]
        expected = bytearray((_GUARD * (len(part) // len(_GUARD) + 1))[: len(part)])
        SgList.spans(expected, self.spans[index]).scatter(memoryview(self.data[index]))
        if part != expected:
            raise VerificationError(f"{what}: the list read into differs from what was written")

    def check_stored(self, index: int, stored: Sequence[memoryview], what: str) -> None:
        """What was read back must be the data.  Raises VerificationError."""
        digest = hashlib.sha256(b"".join(stored)).digest()
        if digest != hashlib.sha256(self.data[index]).digest():
            raise VerificationError(f"{what}: what was stored differs from the list that was written")
