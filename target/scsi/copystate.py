"""What EXTENDED COPY commands left behind for RECEIVE COPY RESULTS (SPC-4 6.23)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["MAX_HELD", "CopyResults", "CopyStatus"]

#: Results that are held for all initiators of one unit; the oldest go first.
MAX_HELD: Final = 64


class CopyStatus(NamedTuple):
    """How a copy ended: whether it was in order, segments that were processed, and bytes that were written."""

    good: bool
    segments: int
    written: int


class CopyResults:
    """Results by the name of the initiator's port and the list identifier that it chose."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, int], CopyStatus] = OrderedDict()

    def put(self, name: str, identifier: int, status: CopyStatus) -> None:
        """Hold a result, in place of an earlier one of the same list identifier."""
        self._held.pop((name, identifier), None)
        self._held[name, identifier] = status
        if len(self._held) > MAX_HELD:
            self._held.popitem(last=False)

    def get(self, name: str, identifier: int) -> CopyStatus | None:
        """The held result, if there is one."""
        return self._held.get((name, identifier))

    def forget(self, name: str) -> None:
        """Nothing is held for an initiator port that is gone."""
        for held in [held for held in self._held if held[0] == name]:
            del self._held[held]

    def clear(self) -> None:
        """Nothing is held for anybody."""
        self._held.clear()
