"""Cutting a transfer into the work requests that a device takes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Element", "groups_of", "split"]

#: Address, length and local key.
Element = tuple[int, int, int]


def split(elements: Sequence[Element], remote: int, max_sge: int) -> list[tuple[Sequence[Element], int]]:
    """The elements of each work request and the remote address where it starts; at least one request.

    siw gathers up to six elements for a Send or a Write but places a Read in one only, and silently drops the rest.
    """
    if len(elements) <= max_sge:
        return [(elements, remote)]
    parts = []
    for start in range(0, len(elements), max_sge):
        group = elements[start : start + max_sge]
        parts.append((group, remote))
        remote += sum(length for _, length, _ in group)
    return parts


def groups_of(count: int, size: int) -> list[tuple[int, int]]:
    """``count`` items in groups of up to ``size``: start and end of each."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]
