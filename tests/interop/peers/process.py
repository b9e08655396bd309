"""Our target as a process on this machine, for initiators in the guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import MappingProxyType
from typing import Any, Final, Self

from tests.lab import HOST, LabError
from tests.lab.build import PROJECT

__all__ = ["TargetProcess"]

_STOP_SECONDS: Final = 15.0
_COMMAND_SECONDS: Final = 60.0
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class TargetProcess:
    """``iser-target serve`` with a portal for each of ``schemes``, ``iser`` or ``iscsi``, on this machine's loopback.

    ``tables`` is the rest of the configuration, ``keys`` what stands before the first table.  Portal number n is in
    group n + 1.  Ports are chosen at the first start and kept for later ones.  ``environment`` holds the secrets that
    ``tables`` name.
    """

    def __init__(
        self,
        folder: Path,
        tables: str,
        schemes: Sequence[str] = ("iser",),
        environment: Mapping[str, str] = _NOTHING,
        keys: str = "",
    ) -> None:
        self.tables = tables
        self._keys = keys
        self.schemes = tuple(schemes)
        self._ports = [0] * len(schemes)
        self._folder = folder
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(PROJECT)}
        self._process: subprocess.Popen[str] | None = None

    def portal_of(self, number: int) -> str:
        """A portal as the guest reaches it."""
        return f"{HOST}:{self._ports[number]}"

    @property
    def log(self) -> str:
        """What the target said so far."""
        return (self._folder / "target.log").read_text()

    def start(self) -> None:
        """Serve, or serve again at the same ports.  Raises LabError."""
        self._write(range(len(self.schemes)))
        with (self._folder / "target.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "target.cli", "serve", "target.toml"], cwd=self._folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout
        for number, scheme in enumerate(self.schemes):
            ready = f"listening {scheme}://127.0.0.1:"
            line = self._process.stdout.readline().strip()
            if not line.startswith(ready):
                self.kill()
                raise LabError(f"our target did not come up: {self.log.strip().splitlines()[-1:]}")
            self._ports[number] = int(line.removeprefix(ready))

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Started, and killed in the end."""
        self.start()
        try:
            yield self
        finally:
            self.kill()

    def reload(self, portals: Sequence[int] | None = None) -> None:
        """Have it take ``tables`` as they are now, with those ``portals`` only, or all.  Raises LabError."""
        self._write(range(len(self.schemes)) if portals is None else portals)
        self.command("reload")

    def command(self, *words: str) -> Any:
        """A command to the running target, as an administrator gives it; its answer.  Raises LabError."""
        done = subprocess.run(
            [sys.executable, "-m", "target.cli", *words, "--admin", "admin.sock", "--json"], cwd=self._folder,
            env=self._environment, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise LabError(f"iser-target {words[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

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

    def _write(self, portals: Sequence[int]) -> None:
        tables = [
            f'[portal.p{number}]\nlisten = "{self.schemes[number]}://127.0.0.1:{self._ports[number]}"\n'
            f"group = {number + 1}\n"
            for number in portals
        ]
        admin = '[admin]\nsocket = "admin.sock"\n'
        (self._folder / "target.toml").write_text("".join([self._keys, *tables, admin, self.tables]))

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
