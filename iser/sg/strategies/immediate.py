"""Immediate data: a small write gathered into its command, without any STag."""

from __future__ import annotations

from typing import ClassVar

from iser.sg.registration import Direction, Registration
from iser.sg.sglist import SgList
from iser.sg.strategies.base import AUTO, FallbackReason, Strategy

__all__ = ["Immediate"]


class Immediate(Strategy):
    """Stands for what the session does before it asks for a registration; what gets here was no small write."""

    name: ClassVar[str] = "immediate"
    fallback: ClassVar[str] = AUTO

    def refuses(self, sg: SgList, direction: Direction) -> FallbackReason | None:
        """Reads never, writes if they are longer than the session lets travel with a command."""
        return FallbackReason.NO_CAP if direction is Direction.READ else FallbackReason.OVERSIZE

    def register(self, sg: SgList, direction: Direction) -> Registration:
        """Never reached, as every list is refused."""
        raise AssertionError("immediate data has no registration")
