"""Starts and ends the processes that are measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.benchmark.host import BenchmarkError

__all__ = ["said", "started"]

_STOP_SECONDS: Final = 10.0
_LAST_WORDS: Final = 500  # characters of a log that a message shows


@asynccontextmanager
async def started(
    command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, gently: bool = True
) -> AsyncIterator[Process]:
    """Run ``command``, its stderr in ``log``, until the block ends; then nothing of it is left.

    It gets a session of its own, so that a Ctrl-C at the terminal reaches us alone and we end it in order: by SIGTERM
    if ``gently``, and by SIGKILL, with all that it started, in any case.
    """
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE if gently else DEVNULL, stderr=sink, limit=1 << 24,
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    try:
        yield process
    finally:
        await asyncio.shield(_end(process, gently=gently))


async def _end(process: Process, *, gently: bool) -> None:
    if gently and process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def said(log: Path) -> str:
    """The end of a log, for the message of an error."""
    try:
        return log.read_text(errors="replace").strip()[-_LAST_WORDS:] or "it said nothing"
    except OSError as error:
        raise BenchmarkError(f"{log} cannot be read: {error}") from None
