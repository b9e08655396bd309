"""From a configuration to the devices that serve it."""

from __future__ import annotations

from pathlib import Path

from iser.errors import UsageError
from target.backends.base import Backend, BackendCap
from target.backends.block import BlockBackend
from target.backends.fault import Fault, FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.backends.nbd import NbdBackend
from target.backends.rbd import RbdBackend
from target.config.model import LimitsConfig, LunConfig, TargetConfig
from target.scsi import Identity, LogicalUnit, ReservationStore, TargetDevice, UnitOptions

__all__ = ["build_device", "build_unit", "open_backend", "stores"]


def stores(lun: LunConfig) -> set[str]:
    """What no two LUNs may have open at a time."""
    return {str(store) for store in (lun.path, lun.uri, lun.reservations) if store is not None}


def open_backend(lun: LunConfig) -> Backend:
    """Open the backend of ``lun``, with its faults on top.  Raises BackendError or UsageError."""
    backend = _open_plain(lun)
    if not lun.faults:
        return backend
    faults = [Fault(fault.on, fault.action, fault.nth, fault.count, fault.seconds) for fault in lun.faults]
    return FaultFilter(backend, faults)


def _open_plain(lun: LunConfig) -> Backend:
    size, block_size, read_only = lun.size, lun.block_size, lun.read_only
    match lun.backend:
        case "file" | "block":
            kind = FileBackend if lun.backend == "file" else BlockBackend
            return kind(_needed(lun, "path"), size, block_size=block_size, read_only=read_only, threads=lun.threads)
        case "nbd":
            return NbdBackend(_needed(lun, "uri"), size, block_size=block_size, read_only=read_only)
        case "rbd":
            return RbdBackend(
                _needed(lun, "uri"), size, block_size=block_size, read_only=read_only, threads=lun.threads
            )
        case "memory":
            if size is None:
                raise UsageError(f"LUN {lun.id} has no size; a memory LUN needs one")
            return MemoryBackend(size, block_size=block_size, read_only=read_only, name=f"memory LUN {lun.id}")


def _needed(lun: LunConfig, key: str) -> str:
    """The path or URI of ``lun``.  The loader finds its absence; this is for configurations made by hand."""
    value = getattr(lun, key)
    if value is None:
        raise UsageError(f"LUN {lun.id} has no {key}; a {lun.backend} LUN needs one")
    return str(value)


def _options(lun: LunConfig, limits: LimitsConfig, backend: Backend) -> UnitOptions:
    can_be_thin = bool(backend.capabilities & BackendCap.DISCARD)
    kept = lun.reservations
    if kept is None and lun.backend == "file" and lun.path is not None:
        kept = Path(f"{lun.path}.reservations")
    return UnitOptions(
        max_transfer=limits.max_transfer,
        descriptor_sense=lun.descriptor_sense,
        removable=lun.removable,
        thin=can_be_thin if lun.thin is None else lun.thin,
        physical_block=lun.physical_block_size or 0,
        reservations=ReservationStore(kept) if kept else None,
    )


async def build_unit(target: str, lun: LunConfig, limits: LimitsConfig) -> LogicalUnit:
    """Open one logical unit of the target named ``target``.  Raises BackendError or UsageError, with nothing open."""
    backend = open_backend(lun)
    try:
        identity = Identity.derive(target, lun.id, lun.serial, lun.product)
        return LogicalUnit(backend, identity, _options(lun, limits, backend))
    except BaseException:
        await backend.close()
        raise


async def build_device(target: TargetConfig, limits: LimitsConfig) -> TargetDevice:
    """Open every backend of ``target``.  Raises BackendError or UsageError, with none left open."""
    units: dict[int, LogicalUnit] = {}
    try:
        for lun in target.lun:
            units[lun.id] = await build_unit(target.name, lun, limits)
    except BaseException:
        for unit in units.values():
            await unit.backend.close()
        raise
    return TargetDevice(target.name, units)
