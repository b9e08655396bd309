"""One cost against one quantity, and how fast it grows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

__all__ = ["LINEAR", "Series", "exponent_of"]

#: An exponent up to this counts as linear growth.  The rest is what two measurements differ by, and that the first few
#: find something free (memory, a warm cache) that the others do not.
LINEAR: Final = 1.15
_LEAST: Final = 1e-6  # what a cost counts that was too small for its clock
_SPAN: Final = 10.0  # the exponent is that of the last decade, where what is fixed hides least


@dataclass(slots=True)
class Series:
    """What ``what`` costs, ``y`` in ``unit``, at each ``x`` of what ``against`` names; ``line`` is the transport."""

    against: str
    line: str
    what: str
    unit: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """One point more; no cost is nothing, whatever its clock says, as it has to have a logarithm."""
        self.x.append(x)
        self.y.append(max(y, _LEAST))

    @property
    def exponent(self) -> float:
        """The cost grows as x to the power of this, over the last decade."""
        return exponent_of(self.x, self.y)

    def to_json(self) -> dict[str, Any]:
        """All of it, and the exponent."""
        return {
            "against": self.against, "line": self.line, "what": self.what, "unit": self.unit, "x": self.x, "y": self.y,
            "exponent": round(self.exponent, 3),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From what :meth:`to_json` gave."""
        return cls(*(data[name] for name in ("against", "line", "what", "unit", "x", "y")))


def exponent_of(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the best line through the logarithms of the points of the last decade of ``x``."""
    points = [(math.log(one), math.log(other)) for one, other in zip(x, y, strict=True) if one * _SPAN >= max(x)]
    middle_x, middle_y = (_mean(values) for values in zip(*points, strict=True))
    above = sum((one - middle_x) * (other - middle_y) for one, other in points)
    below = sum((one - middle_x) ** 2 for one, _ in points)
    return above / below


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
