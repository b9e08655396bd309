"""A target process for the tool to be run against."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from tests.conformance.kinds import KINDS, TARGET, configuration

__all__ = ["Site"]

_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 10
_LISTENING: Final = "listening "


class Site:
    """``iser-target serve`` with a LUN of every kind, on ports of its own.  Its log is ``folder/NAME.log``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._config, self._log = folder / f"{name}.toml", folder / f"{name}.log"
        self._config.write_text(configuration())
        self._process: asyncio.subprocess.Process | None = None
        self._portals: list[str] = []

    async def start(self) -> None:
        """Raises RuntimeError with the end of its log if the target does not come up."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "target.cli", "serve", "--log", "warning", str(self._config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout
        self._portals = []
        for _ in range(max(kind.paths for kind in KINDS)):
            line = (await asyncio.wait_for(self._process.stdout.readline(), _START_SECONDS)).decode().strip()
            if not line.startswith(_LISTENING):
                raise RuntimeError(f"the target did not start: {line or self._log.read_text()[-500:]}")
            self._portals.append(line.removeprefix(_LISTENING))

    def urls(self, kind: str) -> list[str]:
        """The LUN of ``kind``, once for each path."""
        number = next(number for number, each in enumerate(KINDS) if each.name == kind)
        return [f"{portal}/{TARGET}/{number}" for portal in self._portals[: KINDS[number].paths]]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def stop(self) -> None:
        """End the process, by force if it does not end by itself."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
