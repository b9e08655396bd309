"""Our target, as a process on this machine, for initiators in the guest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Final, Self

from tests.lab import HOST, LabError

__all__ = ["OurTarget"]

_READY: Final = "listening iser://127.0.0.1:"
_STOP_SECONDS: Final = 15.0


class OurTarget:
    """One target with one LUN.  ``lun`` and ``limits`` are lines of the configuration's tables of these names."""

    def __init__(self, folder: Path, name: str, lun: str, limits: str = "") -> None:
        self.name = name
        self.port = 0  # chosen at the first start, kept for later ones
        self._folder = folder
        self._tables = f'[limits]\n{limits}\n[[target]]\nname = "{name}"\n[[target.lun]]\nid = 0\n{lun}\n'
        self._process: subprocess.Popen[str] | None = None

    @property
    def portal(self) -> str:
        """As the guest reaches it."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What the target said so far."""
        return (self._folder / "target.log").read_text()

    def start(self) -> None:
        """Serve, or serve again at the same port.  Raises LabError."""
        config = self._folder / "target.toml"
        config.write_text(f'[portal.lab]\nlisten = "iser://127.0.0.1:{self.port}"\n{self._tables}')
        with (self._folder / "target.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "target.cli", "serve", str(config)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        if not line.startswith(_READY):
            self.kill()
            raise LabError(f"our target did not come up: {self.log.strip().splitlines()[-1:]}")
        self.port = int(line.removeprefix(_READY))

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Started, and killed in the end."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def signal(self, number: Signals) -> None:
        """Send a signal."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(SIGKILL)

    def stop(self) -> int | None:
        """SIGTERM; its exit code, None if it was not running."""
        return self._end(SIGTERM)

    def _end(self, number: Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            assert process.stdout
            process.stdout.close()
