"""Registration strategies, one small class each; :data:`STRATEGIES` names them."""

from __future__ import annotations

from typing import Final

from iser.sg.strategies.base import FallbackReason, Resources, Strategy
from iser.sg.strategies.bounce import Bounce
from iser.sg.strategies.frwr import Frwr
from iser.sg.strategies.indirect import Indirect

__all__ = ["STRATEGIES", "Bounce", "FallbackReason", "Frwr", "Indirect", "Resources", "Strategy"]

STRATEGIES: Final[dict[str, type[Strategy]]] = {kind.name: kind for kind in (Frwr, Indirect, Bounce)}
