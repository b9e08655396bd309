"""The embedded RNIC's device with limits of a test's choosing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iser.rdma.api import DeviceCap, ProtectionDomain
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.rdma.softiwarp.options import DEFAULT_ATTRIBUTES
from iser.sg import Planner

__all__ = ["PLAIN", "domain", "planner"]

PLAIN = DeviceCap.MEM_MGT_EXTENSIONS  # no SG lists


def domain(**limits: Any) -> tuple[ProtectionDomain, Any]:
    """A protection domain and the attributes of its device."""
    attributes = replace(DEFAULT_ATTRIBUTES, **limits)
    return SoftIwarp(SoftIwarpOptions(attributes=attributes)).device.alloc_pd(), attributes


def planner(depth: int = 8, *, limits: dict[str, Any] | None = None, **options: Any) -> Planner:
    """A planner on a device of its own."""
    pd, attributes = domain(**(limits or {}))
    return Planner(pd, attributes, depth, **options)
