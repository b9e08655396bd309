"""``plan`` of the admin socket: what a reload of another configuration would change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from target.admin.commands import Json, checked
from target.config import Config
from target.config.base import Table
from target.config.diff import diff
from target.config.model import load_tables

__all__ = ["plan_of"]


class _Served(Protocol):
    config: Config


class _Plan(Table):
    """``tables`` are those of the file, ``base`` the directory that its relative paths start from."""

    tables: dict[str, Any]
    base: str


async def plan_of(served: _Served, arguments: dict[str, Json]) -> Json:
    """A line for each difference from what is ``served``, as ``reload`` would say it.  Raises UsageError."""
    request = checked(_Plan, arguments)
    return [str(change) for change in diff(served.config, load_tables(request.tables, Path(request.base)))]
