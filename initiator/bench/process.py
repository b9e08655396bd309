"""The other processes of a benchmark, and the processor time that each takes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from iser.errors import ConnectionFailed

__all__ = ["STOP_TIMEOUT", "cpu_of", "own_cpu", "port_server", "run_loop"]

STOP_TIMEOUT: Final = 5.0  # seconds


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on uvloop where that is installed, as the target's process does."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def own_cpu() -> int:
    """Nanoseconds of processor time of this process."""
    return time.process_time_ns()


def cpu_of(pid: int | None) -> int | None:
    """Nanoseconds of processor time of another process on this machine; None where that cannot be told."""
    if pid is None:
        return None
    try:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    except (OSError, ValueError, IndexError):
        return None


@asynccontextmanager
async def port_server(module: str) -> AsyncIterator[tuple[int, int]]:
    """Run a module of ours that prints the port it listens on; gives the port and its process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert process.stdin
    try:
        line = await process.stdout.readline()
        if not line.strip().isdigit():
            raise ConnectionFailed(f"the process {module} ended before it listened; its messages tell why")
        yield int(line), process.pid
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except BaseException as error:
            process.kill()
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
