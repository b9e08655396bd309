"""``iser doctor``: what RDMA devices there are, what they can, and what stands in the way of using them."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Final, NamedTuple

from iser.errors import IserError
from iser.rdma.api import DeviceAttributes, DeviceCap
from iser.rdma.choose import choose, device_names
from iser.rdma.softiwarp.options import DEFAULT_ATTRIBUTES
from iser.rdma.verbs.constants import NODE_TYPE_RNIC
from iser.rdma.verbs.device import VerbsDevice
from iser.rdma.verbs.library import load_pyverbs, memlock_limit
from iser.rdma.verbs.opened import SYSFS, node_type
from iser.rdma.verbs.options import VerbsOptions
from iser.rdma.verbs.rdmacm import CM_NODE, load_rdmacm

__all__ = ["Finding", "examine"]

LOW_MEMLOCK: Final = 64 << 20  # bytes under which a busy connection is likely to fail

Lines = list[tuple[str, str]]


class Finding(NamedTuple):
    """What was found: names and values to print, and whether all that there is can be used."""

    lines: Lines
    healthy: bool


async def examine(host: str = "") -> Finding:
    """Look at this machine; with ``host`` also say which provider would be chosen to reach it."""
    problems: Lines = []
    lines = _software(problems) + _memlock()
    names = device_names()
    if not names:
        lines.append(("devices", "none; provider softiwarp needs none"))
    for name in names:
        lines += _device(name, problems)
    lines.append(("softiwarp", _limits(DEFAULT_ATTRIBUTES)))
    if host:
        lines.append((f"to reach {host}", f"provider {await choose('auto', host)}"))
    # Without a device nothing is missing: softiwarp asks for none of it.
    return Finding(lines + problems, not (names and problems))


def _software(problems: Lines) -> Lines:
    lines = []
    for name, load, version in (
        ("pyverbs", load_pyverbs, _pyverbs_version),
        ("librdmacm", load_rdmacm, lambda: "usable"),
    ):
        try:
            load()
            lines.append((name, version()))
        except IserError as error:
            lines.append((name, "missing"))
            problems.append(("problem" if device_names() else "note", str(error)))
    return lines


def _pyverbs_version() -> str:
    try:
        return importlib.metadata.version("pyverbs")
    except importlib.metadata.PackageNotFoundError:
        return "usable"  # distributions install it without metadata


def _memlock() -> Lines:
    limit = memlock_limit()
    if limit is None:
        return [("memory to pin", "no limit")]
    text = f"RLIMIT_MEMLOCK is {limit >> 10} KiB"
    if limit < LOW_MEMLOCK:
        text += ", which is low; raise it with 'ulimit -l unlimited' or LimitMEMLOCK=infinity"
    return [("memory to pin", text)]


def _device(name: str, problems: Lines) -> Lines:
    kind = "iWARP" if node_type(name) == NODE_TYPE_RNIC else "InfiniBand or RoCE"
    lines = [(f"device {name}", f"{kind}, {', '.join(_ports(name)) or 'no port'}")]
    for path in (CM_NODE, _node_of(name)):
        if not os.access(path, os.R_OK | os.W_OK):
            problems.append(("problem", f"{path} cannot be opened; load rdma_ucm and ib_uverbs, check its permissions"))
            return lines
    try:
        device = VerbsDevice(name, VerbsOptions())
    except IserError as error:
        problems.append(("problem", str(error)))
        return lines
    try:
        lines.append(("  limits", _limits(device.attributes)))
        lines.append(("  regions", _regions(device.attributes)))
    finally:
        device.close()
    return lines


def _ports(name: str) -> list[str]:
    ports = []
    for port in sorted(Path(SYSFS, name, "ports").glob("*")):
        state = _read(port / "state").rpartition(" ")[2].lower()
        interfaces = sorted({_read(entry) for entry in (port / "gid_attrs" / "ndevs").glob("*")} - {""})
        ports.append(" ".join([f"port {port.name} {state}", *(f"on {interface}" for interface in interfaces)]))
    return ports


def _node_of(name: str) -> str:
    for entry in Path("/sys/class/infiniband_verbs").glob("uverbs*"):
        if _read(entry / "ibdev") == name:
            return f"/dev/infiniband/{entry.name}"
    return "/dev/infiniband/uverbs0"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # an unused entry of a table cannot be read


def _limits(attributes: DeviceAttributes) -> str:
    return (
        f"{attributes.max_qp_wr} requests, {attributes.max_cqe} completions, {attributes.max_sge} pieces a request, "
        f"{attributes.max_sge_rd} a read, reads served {attributes.max_qp_rd_atom}, outstanding "
        f"{attributes.max_qp_init_rd_atom}, regions of {attributes.max_mr_bytes >> 20} MiB"
    )


def _regions(attributes: DeviceAttributes) -> str:
    indirect = "any list" if attributes.caps & DeviceCap.SG_GAPS_REG else "one contiguous range; other lists are copied"
    remote = "yes" if attributes.caps & DeviceCap.MEM_MGT_EXTENSIONS else "no"
    return f"{indirect}; invalidated by the peer: {remote}; can invalidate the peer's: " + (
        "yes" if attributes.send_with_invalidate else "no"
    )
