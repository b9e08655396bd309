"""What a running target is watched and changed by: the admin socket and the metrics, as configured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from iser.errors import UsageError
from iser.net import display
from target.admin.commands import Administration, Command
from target.admin.listener import AdminListener
from target.config import AdminConfig
from target.config.values import parse_address

if TYPE_CHECKING:
    from target.metrics import MetricsServer
    from target.server import TargetServer

__all__ = ["Control", "admin_settings"]


def admin_settings(config: AdminConfig, socket: Path | None, metrics: str | None) -> AdminConfig:
    """``config`` with what the flags ``--admin`` and ``--metrics`` say in its place.  Raises UsageError."""
    changes: dict[str, object] = {}
    if socket is not None:
        changes["socket"] = socket.absolute()
    if metrics is not None:
        try:
            changes["metrics"] = parse_address(metrics)
        except UsageError as error:
            raise UsageError(f"--metrics: {error}") from error
    return config.model_copy(update=changes)


class Control:
    """Made by :meth:`open`.  ``lines`` say where it is reached."""

    def __init__(self, admin: AdminListener | None) -> None:
        self._admin = admin
        self._metrics: MetricsServer | None = None
        self.lines: list[str] = [f"admin socket {admin.path}"] if admin else []

    @classmethod
    async def open(
        cls, server: TargetServer, config: AdminConfig, more: Mapping[str, Command] | None = None
    ) -> Control:
        """Open what ``config`` names; ``more`` are commands of the socket.

        Raises UsageError and ConnectionFailed with nothing left open.
        """
        admin = await AdminListener.open(config.socket, Administration(server, more)) if config.socket else None
        self = cls(admin)
        if config.metrics:
            # Only who wants metrics pays for importing what makes them.
            from target.metrics import MetricsServer, TargetCollector  # noqa: PLC0415

            try:
                self._metrics = await MetricsServer.open(TargetCollector(server), *config.metrics)
            except BaseException:
                await self.close()
                raise
            self.lines.append(f"metrics http://{display(self._metrics.address)}/metrics")
        return self

    async def close(self) -> None:
        """Close both.  Idempotent."""
        if self._admin:
            await self._admin.close()
        if self._metrics:
            await self._metrics.close()
