"""The embedded RNIC's device with limits of a test's choosing, and what it does with keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iser.rdma.api import DeviceCap, ProtectionDomain
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.rdma.softiwarp.memory import SoftMemoryRegion
from iser.rdma.softiwarp.options import DEFAULT_ATTRIBUTES
from iser.sg import Planner, Registration

__all__ = ["PLAIN", "carry_out", "domain", "end", "planner", "remote"]

PLAIN = DeviceCap.MEM_MGT_EXTENSIONS  # no SG lists


def domain(**limits: Any) -> tuple[ProtectionDomain, Any]:
    """A protection domain and the attributes of its device."""
    attributes = replace(DEFAULT_ATTRIBUTES, **limits)
    return SoftIwarp(SoftIwarpOptions(attributes=attributes)).device.alloc_pd(), attributes


def planner(depth: int = 8, *, limits: dict[str, Any] | None = None, **options: Any) -> Planner:
    """A planner on a device of its own."""
    pd, attributes = domain(**(limits or {}))
    return Planner(pd, attributes, depth, **options)


def carry_out(registration: Registration) -> SoftMemoryRegion:
    """Do what the RNIC does with the posted work."""
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    for work in registration.work:
        region.register(work)
    return region


def end(plan: Planner, registration: Registration, arrived: int) -> None:
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    if not registration.long_lived:
        region.invalidate()
    plan.release(registration, arrived)


def remote(registration: Registration, offset: int, length: int, access: int) -> list[memoryview]:
    """The memory behind ``length`` bytes that a peer names by key and address."""
    region = registration.region
    assert isinstance(region, SoftMemoryRegion)
    at = region.check(registration.rkey, registration.iova + offset, length, access, region.pd)
    return region.slices(at, length)
