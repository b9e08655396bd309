"""Starts and ends the processes that are measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmark.host import BenchmarkError
from tests.lab.build import PROJECT

__all__ = ["PLAIN", "Python", "said", "started"]

_SAMPLER: Final = Path(__file__).with_name("sampler.py")
_STOP_SECONDS: Final = 10.0
_LAST_WORDS: Final = 500  # characters of a log that a message shows


@dataclass(frozen=True, slots=True)
class Python:
    """How Python programs are run: with the packages at ``root``, sampled into the file ``samples`` if there is one."""

    root: Path = PROJECT
    samples: Path | None = None

    def command(self, program: str, *arguments: str) -> tuple[str, ...]:
        """What runs ``program``, a module or a file."""
        how: tuple[str, ...] = (program,) if program.endswith(".py") else ("-m", program)
        if self.samples is not None:
            how = (str(_SAMPLER), str(self.samples), str(self.root), program)
        return (sys.executable, "-P", *how, *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """What it needs besides."""
        return {"PYTHONPATH": str(self.root)}


PLAIN: Final = Python()


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
        # Not process.terminate(), which would take the exit code from asyncio if the process just ended by itself.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
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
