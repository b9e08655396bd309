"""What one of several processes serves of a configuration: made by :mod:`target.workers`, used by the server."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from target.access import AccessPolicy
from target.registry import Elsewhere

__all__ = ["Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """``policy`` has the rules of all targets, ``elsewhere`` is those that other processes serve, by name.

    ``sockets`` listen already, by the name of the portal: first the one that all processes share, then that of this
    process alone.  ``numbers`` are those that this process gives its sessions.
    """

    policy: AccessPolicy
    elsewhere: Mapping[str, Elsewhere]
    sockets: Mapping[str, Sequence[socket.socket]]
    numbers: range
