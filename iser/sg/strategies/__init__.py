"""Registration strategies, one small class each; :data:`STRATEGIES` names them."""

from __future__ import annotations

from typing import Final

from iser.sg.strategies.base import AUTO, BOUNCE, FallbackReason, Resources, Strategy
from iser.sg.strategies.bounce import Bounce
from iser.sg.strategies.bounce_pool import BouncePooled
from iser.sg.strategies.dma_key import DmaKey
from iser.sg.strategies.frwr import Frwr
from iser.sg.strategies.immediate import Immediate
from iser.sg.strategies.indirect import Indirect
from iser.sg.strategies.mr512 import Mr512
from iser.sg.strategies.split import Split

__all__ = [
    "AUTO",
    "BOUNCE",
    "STRATEGIES",
    "Bounce",
    "BouncePooled",
    "DmaKey",
    "FallbackReason",
    "Frwr",
    "Immediate",
    "Indirect",
    "Mr512",
    "Resources",
    "Split",
    "Strategy",
]

STRATEGIES: Final[dict[str, type[Strategy]]] = {
    kind.name: kind for kind in (DmaKey, Frwr, Indirect, Bounce, BouncePooled, Mr512, Split, Immediate)
}
