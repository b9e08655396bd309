"""Split: one command, and one page list, for each stretch of a list that has no gap."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.sglist import SgList
from iser.sg.shape import BLOCK
from iser.sg.strategies.frwr import Frwr

__all__ = ["Split", "runs"]


class Split(Frwr):
    """Registers as ``frwr`` does; the session asks :func:`runs` first, and sends a command for each."""

    name: ClassVar[str] = "split"


def runs(sg: SgList, sector: int, block: int = BLOCK) -> list[SgList]:
    """The stretches of ``sg`` that a page list can describe, or ``sg`` alone.

    It stays whole when one of them is no multiple of ``sector`` bytes, as no command could name what it holds.
    """
    if not sg.gappy:
        return [sg]
    starts = [0]
    end = sg.addresses[0]
    for index, (address, length) in enumerate(zip(sg.addresses, sg.lengths, strict=True)):
        if address != end and (address | end) & (block - 1):
            starts.append(index)
        end = address + length
    parts = [
        SgList(list(sg.views[first:last]), list(sg.addresses[first:last]), list(sg.lengths[first:last]))
        for first, last in zip(starts, (*starts[1:], len(sg)), strict=True)
    ]
    return [sg] if any(part.length % sector for part in parts) else parts
