"""What a running target is watched and changed by: the admin socket and the metrics, as configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from iser.errors import UsageError
from iser.net import display
from target.admin.commands import Administration, Command, Commands
from target.admin.listener import AdminListener
from target.config import AdminConfig
from target.config.values import parse_address

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from target.metrics import MetricsServer, RemoteCollector
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
        """Open what ``config`` names for a server in this process; ``more`` are commands of the socket.

        Raises UsageError and ConnectionFailed with nothing left open.
        """

        def collector() -> Collector:
            from target.metrics import TargetCollector  # noqa: PLC0415 - only who wants metrics pays for importing it

            return TargetCollector(server)

        return await cls.of(Administration(server, more), collector, config)

    @classmethod
    async def of(
        cls, commands: Commands, collector: Callable[[], Collector | RemoteCollector], config: AdminConfig
    ) -> Control:
        """Open what ``config`` names; ``commands`` answer, and what ``collector`` makes is measured.

        Raises UsageError and ConnectionFailed with nothing left open.
        """
        admin = await AdminListener.open(config.socket, commands) if config.socket else None
        self = cls(admin)
        if config.metrics:
            # Only who wants metrics pays for importing what makes them.
            from target.metrics import MetricsServer  # noqa: PLC0415

            try:
                self._metrics = await MetricsServer.open(collector(), *config.metrics)
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
