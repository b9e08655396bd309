"""A target of our own in another process, for the demonstration and the benchmark."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from initiator.url import Portal, Url
from iser.errors import ConnectionFailed

__all__ = ["START_TIMEOUT", "STOP_TIMEOUT", "TARGET_NAME", "started_target", "target_process"]

TARGET_NAME: Final = "iqn.2026-11.demo:disk"
START_TIMEOUT: Final = 20.0  # seconds for the process to listen; a cold start imports a lot
STOP_TIMEOUT: Final = 10.0  # seconds to end in good order before it is killed
_READY: Final = "listening "
_PR_SET_PDEATHSIG: Final = 1


@asynccontextmanager
async def target_process(memory: str = "256M") -> AsyncIterator[Url]:
    """Serve one LUN of ``memory`` on a free port of loopback; gives its URL, and ends the process in every case.

    Raises ConnectionFailed when it does not come up.
    """
    async with started_target(memory) as (url, _):
        yield url


@asynccontextmanager
async def started_target(memory: str = "256M") -> AsyncIterator[tuple[Url, int]]:
    """As :func:`target_process`; gives the id of the process, too."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "target.cli", "serve", "--memory", memory, "--name", TARGET_NAME,
        "--listen", "iser://127.0.0.1:0", "--log", "warning", stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, preexec_fn=_end_with_parent,
    )  # fmt: skip
    try:
        yield Url(await _portal(process), TARGET_NAME), process.pid
    finally:
        await _stop(process)


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it is killed, and could not end it any more."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _portal(process: asyncio.subprocess.Process) -> Portal:
    assert process.stdout
    try:
        async with asyncio.timeout(START_TIMEOUT):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise ConnectionFailed(f"the target process did not listen within {START_TIMEOUT:g} seconds") from None
    if not line.startswith(_READY):
        raise ConnectionFailed("the target process ended before it listened; its messages tell why")
    return Portal.parse(line.removeprefix(_READY))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except BaseException as error:
        process.kill()
        if not isinstance(error, TimeoutError):
            raise
        await process.wait()
