"""Where a 4 KiB read and a 1 MiB write spend processor time, by layer and process, in two checkouts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmark.host import BenchmarkError
from tests.benchmark.process import Python
from tests.benchmark.sampler import LAYERS
from tests.benchmark.targets import our_target
from tests.benchmark.usage import cpu_seconds
from tests.benchmark.worker import our_initiator
from tests.lab.build import PROJECT

__all__ = ["CASES", "Case", "Profile", "checkout", "commit_of", "measure_layers"]

_TRANSPORTS: Final = {"iSER": "iser", "TCP": "iscsi"}
_DISK: Final = 64 << 20
_QUEUE: Final = 32
_ANSWER_SECONDS: Final = 10.0

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Case:
    """``depth`` transfers of ``size`` bytes at once."""

    what: str
    size: int
    depth: int
    write: bool


CASES: Final = (
    Case("4 KiB read, depth 32", 4096, 32, write=False),
    Case("1 MiB write, depth 8", 1 << 20, 8, write=True),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Microseconds of processor time of one transfer, by layer, in one process of one checkout.

    ``side`` is ``target`` or ``initiator``; ``commit`` names the checkout.
    """

    commit: str
    transport: str
    case: str
    side: str
    layers: dict[str, float]

    @property
    def total(self) -> float:
        """Of all layers."""
        return sum(self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "commit": self.commit, "transport": self.transport, "case": self.case, "side": self.side, "us": self.layers,
        }  # fmt: skip


def commit_of(root: Path) -> str:
    """The short name of what is checked out; raises BenchmarkError outside of a repository."""
    return _git(root, "rev-parse", "--short", "HEAD")


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Another commit of the project, in a folder below ``folder``; raises BenchmarkError where there is none."""
    root = folder / "checkout"
    _git(PROJECT, "worktree", "add", "--quiet", "--detach", str(root), commit)
    try:
        yield root
    finally:
        _git(PROJECT, "worktree", "remove", "--force", str(root))


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


async def measure_layers(folder: Path, roots: Sequence[Path], seconds: float, say: Say) -> list[Profile]:
    """Every case over both transports, in each of the checkouts ``roots`` in turn."""
    found: list[Profile] = []
    for transport, scheme in _TRANSPORTS.items():
        for case in CASES:
            for root in roots:
                profiles = await _measure(folder, root, (transport, scheme), case, seconds)
                say("; ".join(f"{transport}, {case.what}, {each.commit}, {each.side}: {each.total:.1f} us"
                              for each in profiles))  # fmt: skip
                found += profiles
    return found


async def _measure(
    folder: Path, root: Path, transport: tuple[str, str], case: Case, seconds: float
) -> tuple[Profile, Profile]:
    samples = {side: folder / f"{side}.json" for side in ("target", "initiator")}
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(our_target(folder, size=_DISK, python=Python(root, samples["target"])))
        worker = await stack.enter_async_context(our_initiator(folder, Python(root, samples["initiator"])))
        await worker.ask("connect", url=served.url(transport[1], 0), queue_depth=_QUEUE)
        await worker.ask("fill")
        pids = {"target": served.pid, "initiator": worker.pid}
        for pid in pids.values():
            os.kill(pid, signal.SIGUSR1)
        before = {side: cpu_seconds(pid) for side, pid in pids.items()}
        run = await worker.run(case.size, case.depth, seconds, write=case.write)
        spent = {side: (cpu_seconds(pid) - before[side]) * 1e6 / run.ios for side, pid in pids.items()}
        counts = {side: await asyncio.to_thread(_counts, pid, samples[side]) for side, pid in pids.items()}
    one, other = (
        Profile(commit_of(root), transport[0], case.what, side, _shares(counts[side], spent[side])) for side in samples
    )
    return one, other


def _counts(pid: int, path: Path) -> dict[str, int]:
    """Have a process write what it counted.  Raises BenchmarkError when it does not."""
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + _ANSWER_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise BenchmarkError(f"process {pid} does not write what it sampled to {path}")
        time.sleep(0.02)
    counts: dict[str, int] = json.loads(path.read_text())
    path.unlink()
    return counts


def _shares(counts: dict[str, int], total: float) -> dict[str, float]:
    every = sum(counts.values()) or 1
    return {layer: total * counts.get(layer, 0) / every for layer in LAYERS}
