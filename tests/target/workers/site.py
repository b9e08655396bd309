"""Two targets on two workers, which are processes of their own, under a supervisor in this one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import initiator
from initiator.establish import Link, open_session
from initiator.options import ConnectOptions
from initiator.url import Portal
from target.config import Config
from target.workers import Supervisor

__all__ = ["ONE", "PORTALS", "TWO", "check_data", "link_to", "lun", "place", "settings", "supervised", "target"]

ONE, TWO = "iqn.2026-11.test:one", "iqn.2026-11.test:two"
PORTALS: dict[str, dict[str, Any]] = {
    "tcp": {"listen": "iscsi://127.0.0.1:0"},
    "rdma": {"listen": "iser://127.0.0.1:0"},
}
#: As many tests run at a time as the machine has cores.
PATIENT = ConnectOptions(login_timeout=30.0)


def lun(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A LUN table; 1 MiB in memory, but for ``changes``."""
    return {"id": number, "backend": "memory", "size": "1M"} | changes


def target(name: str, *luns: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A target table, with one LUN in memory where none is given."""
    return {"name": name, "lun": luns or (lun(),)} | changes


def settings(*targets: dict[str, Any], **changes: Any) -> Config:
    """Two workers at a portal of each transport, with ONE and TWO if no targets are given."""
    tables = {
        "workers": 2,
        "portal": PORTALS,
        "target": targets or (target(ONE), target(TWO)),
    }
    return Config.model_validate(tables | changes, context=Path.cwd())


@asynccontextmanager
async def supervised(config: Config | None = None) -> AsyncIterator[Supervisor]:
    """A supervisor with its workers, from start to end."""
    supervisor = await Supervisor.start(config or settings())
    try:
        yield supervisor
    finally:
        await supervisor.close()


def place(supervisor: Supervisor, portal: str, worker: int = 0) -> Portal:
    """Where to connect: the portal that all share, or a worker's own port beside it."""
    names = list(supervisor.config.portal)
    host, port, transport = supervisor.portals[names.index(portal)]
    return Portal(host, supervisor.own_port(portal, worker) if worker else port, transport)


async def link_to(portal: Portal, name: str) -> Link:
    """A session, wherever the login ends up."""
    return await open_session(portal, name, PATIENT)


async def check_data(portal: Portal, name: str) -> None:
    """Write and read back through a session of its own."""
    async with await initiator.connect(initiator.Url(portal, name), login_timeout=30.0) as disk:
        data, back = os.urandom(8192), bytearray(8192)
        await disk.write(8, data)
        await disk.read_into(8, back)
        assert back == data
