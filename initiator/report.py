"""What ``iser info`` says about a logical unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Final

from initiator.lun import Lun, device_type_name
from iser.datamover.tcp import TcpInitiator
from iser.errors import PduError, ScsiError, UsageError
from iser.rdma.api import DeviceCap
from iser.scsi.const import VpdPage
from iser.scsi.inquiry import (
    parse_block_limits,
    parse_designators,
    parse_rotation_rate,
    parse_serial,
    parse_thin,
)

__all__ = ["describe"]

Lines = list[tuple[str, str]]

_WORDS: Final = {True: "yes", False: "no", None: "not said"}
_ASSOCIATIONS: Final = ("logical unit", "target port", "target device", "reserved")


async def describe(lun: Lun) -> Lines:
    """Names and values, in the order to print."""
    lines: Lines = [("portal", str(lun.portal))]
    lines += await _identity(lun)
    for page, read in _PAGES.items():
        try:
            lines += read(await lun.vpd(page))
        except (ScsiError, PduError):
            continue  # the unit does not have the page, or fills it with something else
    return lines + _registration(lun) + _negotiated(lun)


async def _identity(lun: Lun) -> Lines:
    standard = await lun.inquiry()
    lines = [
        ("type", device_type_name(standard.device_type)),
        ("product", f"{standard.vendor} {standard.product} {standard.revision}".strip()),
    ]
    try:
        capacity = lun.capacity
    except UsageError:
        return lines
    size = f"{capacity.blocks} blocks of {capacity.block_size} bytes, {_size(capacity.size)}"
    return [*lines, ("capacity", size), ("transfer", f"up to {_size(lun.max_transfer)} in one command")]


def _serial(data: bytes) -> Lines:
    return [("serial", parse_serial(data))]


def _designators(data: bytes) -> Lines:
    return [
        ("identity", f"{designator.text} ({_ASSOCIATIONS[designator.association]})")
        for designator in parse_designators(data)
    ]


def _limits(data: bytes) -> Lines:
    limits = parse_block_limits(data)
    words = [f"{name} {blocks}" for name, blocks in zip(limits._fields, limits, strict=True) if blocks]
    return [("transfer blocks", ", ".join(words) or "no limits")]


def _medium(data: bytes) -> Lines:
    rate = parse_rotation_rate(data)
    return [("medium", {0: "rotation not reported", 1: "not rotating"}.get(rate, f"{rate} revolutions a minute"))]


def _provisioning(data: bytes) -> Lines:
    return [("provisioning", "thin" if parse_thin(data) else "full")]


_PAGES: Final[dict[int, Callable[[bytes], Lines]]] = {
    VpdPage.UNIT_SERIAL_NUMBER: _serial,
    VpdPage.DEVICE_IDENTIFICATION: _designators,
    VpdPage.BLOCK_LIMITS: _limits,
    VpdPage.BLOCK_DEVICE_CHARACTERISTICS: _medium,
    VpdPage.LOGICAL_BLOCK_PROVISIONING: _provisioning,
}


def _registration(lun: Lun) -> Lines:
    datamover = lun.link.datamover
    if isinstance(datamover, TcpInitiator):
        return [("device", "none: plain TCP registers nothing")]
    device = datamover.device
    lists = "page lists and SG lists" if device.attributes.caps & DeviceCap.SG_GAPS_REG else "page lists only"
    return [
        ("device", f"{device.name}, registers {lists}"),
        ("strategy", datamover.planner.strategy),
        ("remote invalidate", "on" if datamover.remote_invalidate else "off"),
    ]


def _negotiated(lun: Lun) -> Lines:
    params = lun.session.login.params
    lines = []
    for item in fields(params):
        value = getattr(params, item.name)
        words = _WORDS[value] if value is None or isinstance(value, bool) else str(value)
        lines.append((item.name.replace("_", " "), words))
    return lines


def _size(length: int) -> str:
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if length >> shift:
            return f"{length / (1 << shift):.4g} {unit}"
    return f"{length} bytes"
