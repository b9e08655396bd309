"""What all workers together serve, as each of them is told it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from target.access import AccessPolicy
from target.config import Config
from target.config.workers import MAX_WORKERS
from target.registry import ALL_NUMBERS, Elsewhere
from target.share import Share

__all__ = ["Assignment", "session_numbers"]


def session_numbers(worker: int, workers: int) -> range:
    """The numbers that ``worker`` of so many gives its sessions: no two workers have one in common."""
    assert 1 <= worker <= workers <= MAX_WORKERS
    return ALL_NUMBERS[worker - 1 :: workers]


@dataclass(frozen=True, slots=True)
class Assignment:
    """``owners`` has the worker, from 1, of each target by name; ``ports`` each worker's own port, by portal."""

    config: Config
    workers: int
    owners: Mapping[str, int]
    ports: Mapping[str, tuple[int, ...]]

    def part(self, worker: int) -> Config:
        """The configuration with the targets of ``worker`` only."""
        own = tuple(target for target in self.config.target if self.owners[target.name] == worker)
        return self.config.model_copy(update={"target": own})

    def share(self, worker: int, policy: AccessPolicy, sockets: Mapping[str, Sequence[socket.socket]]) -> Share:
        """What the server of ``worker`` has to know of the others, and where it listens."""
        elsewhere = {
            target.name: Elsewhere(frozenset(target.portals), self._ports_of(self.owners[target.name]))
            for target in self.config.target
            if self.owners[target.name] != worker
        }
        return Share(policy, elsewhere, sockets, session_numbers(worker, self.workers))

    def with_config(self, config: Config) -> Assignment:
        """The same for ``config``, all of whose targets have their worker."""
        return replace(self, config=config)

    def _ports_of(self, worker: int) -> dict[str, int]:
        return {portal: ports[worker - 1] for portal, ports in self.ports.items()}
