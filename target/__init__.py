"""A userspace iSER target: portals, sessions, a SCSI device server and its backends."""

from __future__ import annotations

from target.server import TargetServer

__all__ = ["TargetServer"]
