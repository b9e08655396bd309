"""Which worker serves which target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from iser.errors import UsageError
from target.config import Config, TargetConfig
from target.config.workers import shared_stores

__all__ = ["spread"]


def spread(config: Config, workers: int, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """The worker, from 1, of each target of ``config`` by name; ``before`` is who serves what until now.

    What shares a file, device or image stays together.  Its key ``worker`` decides, then who served it before, then
    who has least.  Raises UsageError where a key names a worker that does not run.
    """
    known = before or {}
    groups = _groups(config)
    chosen: list[int | None] = [_wanted(config, group, workers) or _earlier(config, group, known) for group in groups]
    load = dict.fromkeys(range(1, workers + 1), 0)
    for group, worker in zip(groups, chosen, strict=True):
        if worker is not None:
            load[worker] += len(group)
    owners: dict[int, int] = {}
    for group, worker in zip(groups, chosen, strict=True):
        owner = worker
        if owner is None:
            owner = min(load, key=lambda each: load[each])
            load[owner] += len(group)
        owners.update(dict.fromkeys(group, owner))
    return {target.name: owners[index] for index, target in enumerate(config.target)}


def _groups(config: Config) -> list[list[int]]:
    """Indices of targets, those together that have a store in common."""
    luns = ((index, dict(lun)) for index, target in enumerate(config.target) for lun in target.lun)
    leader = list(range(len(config.target)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for one, two, _ in shared_stores(luns, Path("/")):
        low, high = sorted((find(one), find(two)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(leader)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def _wanted(config: Config, group: list[int], workers: int) -> int | None:
    for target in _members(config, group):
        if target.worker is not None:
            if target.worker > workers:
                raise UsageError(
                    f"target {target.name} wants worker {target.worker}, but {workers} run; "
                    "lower it, or restart the target with more workers"
                )
            return target.worker
    return None


def _earlier(config: Config, group: list[int], known: Mapping[str, int]) -> int | None:
    return next((known[target.name] for target in _members(config, group) if target.name in known), None)


def _members(config: Config, group: list[int]) -> Iterator[TargetConfig]:
    return (config.target[index] for index in group)
