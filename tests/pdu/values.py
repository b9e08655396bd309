"""Random values of a declared wire format, for the property tests of this package."""

from __future__ import annotations

from typing import Any, get_type_hints

from construct import Bytes
from hypothesis import strategies as st

from iser.pdu.layout import At

__all__ = ["field_strategy", "places", "values"]


def places(cls: type[Any]) -> dict[str, At]:
    """Where each field of ``cls`` stands, read from its hints without the help of the code under test."""
    return {
        name: next(each for each in hint.__metadata__ if isinstance(each, At))
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }


def field_strategy(at: At) -> st.SearchStrategy[int] | st.SearchStrategy[bytes]:
    """Every value that fits the place."""
    size: int = at.subcon.sizeof()
    if isinstance(at.subcon, Bytes):
        return st.binary(min_size=size, max_size=size)
    return st.integers(0, (1 << 8 * size) - 1)


def values(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Every value of ``cls``."""
    return st.builds(cls, **{name: field_strategy(at) for name, at in places(cls).items()})
