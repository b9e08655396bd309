"""Keys of workers: which ports they may take, and faults that take more than one table to see."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from iser.errors import UsageError
from target.config.faults import Fault
from target.config.lines import Path as KeyPath
from target.config.values import parse_listen

__all__ = ["MAX_WORKERS", "PortRange", "parse_port_range", "shared_stores", "worker_faults"]

#: Each worker is a process, and gives its sessions a share of the numbers that there are.
MAX_WORKERS: Final = 64
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_STORES: Final = ("path", "uri", "reservations")


class PortRange(NamedTuple):
    """Ports from ``first`` to ``last``."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_port_range(value: object) -> PortRange:
    """The ports in ``3300-3315``.  Raises UsageError."""
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise UsageError(f"{value!r} is no range of ports; write it like '3300-3315'")
    ports = PortRange(int(match[1]), int(match[2]))
    if not 0 < ports.first <= ports.last <= 0xFFFF:
        raise UsageError(f"{value!r} has to go up, within 1 to 65535")
    return ports


def shared_stores(luns: Iterable[tuple[int, Mapping[str, Any]]], base: Path) -> Iterator[tuple[int, int, str]]:
    """Pairs of targets, by index, that have a file, device or image in common, and which; links are followed.

    ``luns`` are pairs of a target's index and a LUN's keys; ``base`` is where relative paths start from.
    """
    first: dict[str, int] = {}
    for target, lun in luns:
        for key in _STORES:
            value = lun.get(key)
            if not isinstance(value, str | Path):
                continue
            store = str(value) if key == "uri" else os.path.realpath(base / value)
            owner = first.setdefault(store, target)
            if owner != target:
                yield owner, target, store


def worker_faults(raw: Mapping[str, Any], base: Path) -> Iterator[Fault]:
    """Faults of several processes, from the raw tables; what is of a wrong type is passed over."""
    workers = raw.get("workers", 1)
    if not _is_number(workers):
        return
    targets = list(_targets(raw))
    for index, target in targets:
        worker = target.get("worker")
        if _is_number(worker) and worker > workers:
            yield Fault(
                ("target", index, "worker"), f"is {worker}, but workers = {workers}; lower it, or have more workers"
            )
    if workers > 1:
        yield from _split_faults(dict(targets), base)
        yield from _portal_faults(raw, workers)


def _split_faults(targets: Mapping[int, Mapping[str, Any]], base: Path) -> Iterator[Fault]:
    luns = ((index, lun) for index, target in targets.items() for lun in _list(target.get("lun")))
    for one, two, store in shared_stores(((index, lun) for index, lun in luns if isinstance(lun, Mapping)), base):
        here, there = targets[one].get("worker"), targets[two].get("worker")
        if here != there and here is not None and there is not None:
            path: KeyPath = ("target", two, "worker")
            yield Fault(path, f"is {there}, but target[{one}] with the same {store} has worker {here}; give both one")


def _portal_faults(raw: Mapping[str, Any], workers: int) -> Iterator[Fault]:
    portals = raw.get("portal")
    listens = []
    for portal in portals.values() if isinstance(portals, Mapping) else ():
        try:
            listens.append(parse_listen(portal.get("listen") if isinstance(portal, Mapping) else None))
        except UsageError:
            continue
    rnic = raw.get("rnic")
    verbs = isinstance(rnic, Mapping) and rnic.get("provider") == "verbs"
    if verbs and any(listen.transport == "iser" for listen in listens):
        what = "'verbs' listens in one process only; set 'softiwarp', or workers = 1"
        yield Fault(("rnic", "provider"), what)
    try:
        ports = parse_port_range(raw["worker_ports"]) if "worker_ports" in raw else None
    except UsageError:
        return
    if ports:
        taken = {listen.port for listen in listens if ports.first <= listen.port <= ports.last}
        there = ports.last - ports.first + 1 - len(taken)
        if there < workers * len(listens):
            yield Fault(
                ("worker_ports",),
                f"leaves {there} ports, but {workers} workers at {len(listens)} portals need {workers * len(listens)}",
            )


def _targets(raw: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, target in enumerate(_list(raw.get("target"))):
        if isinstance(target, Mapping):
            yield index, target


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
