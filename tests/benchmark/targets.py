"""The targets that are compared: ours as a user starts it, and tgt with a file in memory."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmark.host import BenchmarkError, free_port
from tests.benchmark.process import PLAIN, Python, said, started

__all__ = ["NAME", "Served", "fill", "our_target", "tgt_target"]

NAME: Final = "iqn.2026-11.benchmark:disk"
_READY: Final = "listening "
_START_SECONDS: Final = 60.0
_CHUNK: Final = 1 << 20
_MAX_SESSIONS: Final = 1100  # by default the target takes fewer than are measured
_SETTINGS: Final = """\
[portal.tcp]
listen = "iscsi://127.0.0.1:0"
[portal.rdma]
listen = "iser://127.0.0.1:0"
[limits]
max_sessions = {sessions}
{limits}
[[target]]
name = "{name}"
"""
_MEMORY_LUN: Final = '[[target.lun]]\nid = {id}\nbackend = "memory"\nsize = {size}\n'
_FILE_LUN: Final = '[[target.lun]]\nid = {id}\nbackend = "file"\npath = "{path}"\nsize = {size}\n'


@dataclass(frozen=True, slots=True)
class Served:
    """A target that runs: its process, its portals without a scheme, and how long it took to listen, in seconds."""

    pid: int
    tcp: str
    rdma: str = ""
    start_seconds: float = 0.0

    def url(self, transport: str, lun: int) -> str:
        """``transport`` is ``iscsi`` or ``iser``."""
        return f"{transport}://{self.rdma if transport == 'iser' else self.tcp}/{NAME}/{lun}"


def fill(path: Path, size: int) -> None:
    """A file of ``size`` bytes of which none is a hole: reading those would be cheaper than any disk is."""
    randomness = random.Random(str(path.name))
    chunk = randomness.randbytes(_CHUNK)
    with path.open("wb") as file:
        for _ in range(size // _CHUNK):
            file.write(chunk)


@asynccontextmanager
async def our_target(
    folder: Path,
    *,
    luns: int = 1,
    size: int = 1 << 20,
    file: Path | None = None,
    depth: int = 0,
    python: Python = PLAIN,
) -> AsyncIterator[Served]:
    """``iser-target serve`` with ``luns`` LUNs in memory, each of ``size`` bytes, and one more in ``file`` of as many.

    ``depth`` is how many commands a session may queue, 0 for as many as by default.  Raises BenchmarkError with the
    end of its log when it does not come up.
    """
    limits = f"queue_depth = {depth}" if depth else ""
    lines = _SETTINGS.format(limits=limits, sessions=_MAX_SESSIONS, name=NAME)
    lines += "".join(_MEMORY_LUN.format(id=number, size=size) for number in range(luns))
    if file is not None:
        lines += _FILE_LUN.format(id=luns, path=file, size=size)
    config = folder / "target.toml"
    config.write_text(lines)
    async with _serve(folder, config, python) as served:
        yield served


@asynccontextmanager
async def _serve(folder: Path, config: Path, python: Python) -> AsyncIterator[Served]:
    log = folder / "target.log"
    begin = time.perf_counter()
    command = python.command("target.cli", "serve", "--log", "warning", str(config))
    async with started(command, log, environment=python.environment) as process:
        portals = {"iscsi": "", "iser": ""}
        assert process.stdout
        while not all(portals.values()):  # a line for each
            line = (await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)).decode().strip()
            if not line.startswith(_READY):
                raise BenchmarkError(f"our target did not start: {line or said(log)}")
            transport, _, address = line.removeprefix(_READY).partition("://")
            portals[transport] = address
        yield Served(process.pid, portals["iscsi"], portals["iser"], time.perf_counter() - begin)


@asynccontextmanager
async def tgt_target(folder: Path, disk: Path) -> AsyncIterator[Served]:
    """tgtd, as it is by default, with ``disk`` as LUN 1; its control socket is in ``folder``, of a short path.

    Raises BenchmarkError when it does not come up.
    """
    port, log = free_port(), folder / "tgtd.log"
    environment = {"TGT_IPC_SOCKET": str(folder / "tgtd")}
    command = ("/usr/sbin/tgtd", "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{port}")
    async with started(command, log, environment=environment, gently=False) as process:
        for _ in range(100):
            if not await _tgtadm(environment, "system", "show"):
                break
            await asyncio.sleep(0.05)
        for words in (
            ("target", "new", "--tid", "1", "-T", NAME),
            ("logicalunit", "new", "--tid", "1", "--lun", "1", "-b", str(disk)),
            ("target", "bind", "--tid", "1", "-I", "ALL"),
        ):
            trouble = await _tgtadm(environment, *words)
            if trouble:
                raise BenchmarkError(f"tgt could not be set up ({words[0]} {words[1]}): {trouble}; {said(log)}")
        yield Served(process.pid, f"127.0.0.1:{port}")


async def _tgtadm(environment: dict[str, str], mode: str, operation: str, *words: str) -> str:
    """What went wrong, or nothing."""
    command = ("/usr/sbin/tgtadm", "-C", "0", "--lld", "iscsi", "--mode", mode, "--op", operation, *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    _, complaint = await process.communicate()
    return complaint.decode(errors="replace").strip() or "no reason given" if process.returncode else ""
