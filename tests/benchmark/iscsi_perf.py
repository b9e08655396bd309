"""Runs libiscsi's ``iscsi-perf`` and reads what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.benchmark.host import BenchmarkError
from tests.benchmark.process import said, started

__all__ = ["iscsi_perf", "read_average"]

_BLOCK: Final = 512
#: The tool overwrites its line with carriage returns; the last average is that of the whole run.
_AVERAGE: Final = re.compile(r"iops average (\d+) ")
_ERRORS: Final = re.compile(r"error|failed|reconnect", re.IGNORECASE)


async def iscsi_perf(url: str, *, size: int, depth: int, seconds: int, log: Path) -> float:
    """Random reads of ``size`` bytes a second, ``depth`` at once, for ``seconds``.

    Raises BenchmarkError when it fails.
    """
    command = ("iscsi-perf", "-m", str(depth), "-b", str(size // _BLOCK), "-t", str(seconds), "-r", url)
    async with started(command, log) as process:
        assert process.stdout
        printed = (await process.stdout.read()).decode(errors="replace")
        code = await process.wait()
    average = read_average(printed)
    if code or not average:
        raise BenchmarkError(f"{' '.join(command)} ended with code {code}: {printed.strip()[-300:]} {said(log)}")
    return average


def read_average(printed: str) -> float:
    """Requests a second over the whole run; 0 where the tool tells none, or of an error."""
    found = _AVERAGE.findall(printed)
    return 0.0 if not found or _ERRORS.search(printed) else float(found[-1])
