"""A target that serves, with an admin socket, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from target.admin import Administration, AdminListener, ask
from target.admin.commands import Command
from target.config import Config
from target.server import TargetServer
from tests.target.peer import serving

__all__ = ["administered", "asked"]


@asynccontextmanager
async def administered(
    path: Path, settings: Config | None = None, more: Mapping[str, Command] | None = None
) -> AsyncIterator[tuple[TargetServer, int]]:
    """A server with its admin socket at ``path``, and the port of its portal; ``more`` are commands beside its own."""
    async with serving(settings) as (server, port):
        listener = await AdminListener.open(path, Administration(server, more))
        try:
            yield server, port
        finally:
            await listener.close()


async def asked(path: Path, command: str, **arguments: Any) -> Any:
    """What a client in another thread gets, as one in another process would."""
    return await asyncio.to_thread(ask, path, command, **arguments)
