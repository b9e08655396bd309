"""Registered memory that a case can look at byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Region"]


class Region:
    """Memory under one key: ``base`` is the address that the key gives its first byte."""

    __slots__ = ("base", "key", "length", "views")

    def __init__(self, views: Sequence[memoryview], base: int, key: int) -> None:
        self.views = views
        self.base = base
        self.key = key
        self.length = sum(map(len, views))

    @property
    def memory(self) -> bytes:
        """The bytes now, in the order of the list."""
        return b"".join(self.views)
