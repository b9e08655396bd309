"""Scatter-gather lists: their classes, and how each gets its one STag."""

from __future__ import annotations

from iser.sg.counters import RegistrationCounters
from iser.sg.planner import STRATEGY_NAMES, Planner
from iser.sg.registration import Direction, Registration
from iser.sg.sglist import Buffer, SgList, scatter, slice_views
from iser.sg.shape import SgClass, Shape, shape_of

__all__ = [
    "STRATEGY_NAMES",
    "Buffer",
    "Direction",
    "Planner",
    "Registration",
    "RegistrationCounters",
    "SgClass",
    "SgList",
    "Shape",
    "scatter",
    "shape_of",
    "slice_views",
]
