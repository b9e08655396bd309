"""Two busy targets, on two workers and in one process.

A client that takes as much of a processor as a target does leaves nothing for a second worker on two processors, so
that of this row is :mod:`tests.benchmark.flood`, one process for each target.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from tests.benchmark.host import BenchmarkError, work_folder
from tests.benchmark.peers import FULL, Sample, Say, Settings, Side, take_turns
from tests.benchmark.process import said, started
from tests.benchmark.rows import GOALS, Row

__all__ = ["measure_workers"]

_NAMES: Final = tuple(f"iqn.2026-11.benchmark:busy{number}" for number in (1, 2))
_READY: Final = "listening iscsi://"
_PATIENCE: Final = 60.0  # seconds for a process to say something
_SIZE: Final = 64 << 20
_SETTINGS: Final = 'workers = {workers}\n[portal.tcp]\nlisten = "iscsi://127.0.0.1:0"\n'
_TARGET: Final = '[[target]]\nname = "{name}"\n[[target.lun]]\nid = 0\nbackend = "memory"\nsize = {size}\n'


async def measure_workers(folder: Path, settings: Settings, say: Say) -> Row:
    """The row; ``say`` hears of it.  Raises BenchmarkError."""
    async with AsyncExitStack() as stack:
        sides = {
            name: _flooded(folder, await stack.enter_async_context(_served(folder, workers)), settings.seconds)
            for name, workers in (("one", 1), ("two", 2))
        }
        found = await take_turns(sides, settings.pairs)
    row = Row(GOALS["workers"], [each.iops for each in found["two"]], [each.iops for each in found["one"]])
    say(f"{row.goal.what}: {row.value:.2f} ({row.verdict})")
    return row


@asynccontextmanager
async def _served(folder: Path, workers: int) -> AsyncIterator[str]:
    """Both targets; gives the address of the portal."""
    config, log = folder / f"busy-{workers}.toml", folder / f"busy-{workers}.log"
    targets = "".join(_TARGET.format(name=name, size=_SIZE) for name in _NAMES)
    config.write_text(_SETTINGS.format(workers=workers) + targets)
    command = (sys.executable, "-m", "target.cli", "serve", "--log", "warning", str(config))
    async with started(command, log) as process:
        line = await _line(process, log)
        if not line.startswith(_READY):
            raise BenchmarkError(f"our target did not start: {line or said(log)}")
        yield line.removeprefix(_READY)


def _flooded(folder: Path, address: str, seconds: int) -> Side:
    host, _, port = address.partition(":")

    async def side() -> Sample:
        """Both targets at a time."""
        log = folder / "flood.log"
        async with AsyncExitStack() as stack:
            clients = []
            for name in _NAMES:
                words = (host, port, name, str(_SIZE), str(seconds))
                command = (sys.executable, "-m", "tests.benchmark.flood", *words)
                clients.append(await stack.enter_async_context(started(command, log)))
            return Sample(await _rates(clients, log))

    return side


async def _rates(clients: Sequence[Process], log: Path) -> float:
    """Their reads a second, all together; they begin together."""
    for client in clients:
        if await _line(client, log) != "ready":
            raise BenchmarkError(f"a client did not start: {said(log)}")
    for client in clients:
        assert client.stdin
        client.stdin.write(b"go\n")
    answers = [await _line(client, log) for client in clients]
    if not all(answers):
        raise BenchmarkError(f"a client failed: {said(log)}")
    return sum(float(answer.split()[0]) for answer in answers)


async def _line(process: Process, log: Path) -> str:
    assert process.stdout
    try:
        return (await asyncio.wait_for(process.stdout.readline(), _PATIENCE)).decode().strip()
    except TimeoutError:
        raise BenchmarkError(f"a process said nothing for {_PATIENCE:g} seconds: {said(log)}") from None


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


async def _main() -> None:
    with work_folder(1 << 20) as folder:
        row = await measure_workers(folder, FULL, _print)
    for two, one in zip(row.ours, row.peer, strict=True):
        _print(f"two workers {two:.0f} IOPS, one process {one:.0f}: {two / one:.2f}")


if __name__ == "__main__":
    asyncio.run(_main())
