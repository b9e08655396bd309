"""Taking a list of views apart from front to back, in linear time however many pieces are asked for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Cursor"]


class Cursor:
    """A place in ``views``, at byte ``offset`` to begin with; ``offset`` says where it stands."""

    __slots__ = ("_at", "_index", "_views", "offset")

    def __init__(self, views: Sequence[memoryview], offset: int = 0) -> None:
        self._views = views
        self._index = 0
        self._at = 0  # bytes of the piece at the index that were taken
        self.offset = 0
        if offset:
            self.take(offset)

    def take(self, length: int) -> list[memoryview]:
        """The next ``length`` bytes, or what is left."""
        views, index, at = self._views, self._index, self._at
        pieces: list[memoryview] = []
        left = length
        while left and index < len(views):
            view = views[index]
            size = len(view) - at
            if size > left:
                pieces.append(view[at : at + left])
                at += left
                left = 0
            else:
                if size:
                    pieces.append(view[at:] if at else view)
                left -= size
                index += 1
                at = 0
        self._index, self._at = index, at
        self.offset += length - left
        return pieces
