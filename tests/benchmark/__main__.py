"""``python -m tests.benchmark [peers|growth|fairness]...``: measure, and write the parts of ``docs/performance.md``.

Without a part, all.  Numbers go to ``docs/benchmarks/*.json``, pictures beside them.  ``--smoke`` measures the rows
of ``peers`` in a minute, writes nothing, and ends with code 1 if one has collapsed against the committed numbers.
``--layers COMMIT`` samples both sides of our stack at that commit and now, and tells each layer's part of an I/O.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from initiator.bench.environment import describe_environment
from initiator.bench.result import write_text
from iser.errors import IserError
from tests.benchmark.busy import measure_workers
from tests.benchmark.fairness import Meeting, measure_fairness
from tests.benchmark.growth import measure_growth
from tests.benchmark.host import BenchmarkError, install_peers, raise_file_limit, versions, work_folder
from tests.benchmark.layers import Profile, checkout, commit_of, measure_layers
from tests.benchmark.page import describe, fairness_table, growth_table, layers_tables, put_part, rows_table
from tests.benchmark.peers import FULL, SMOKE, Settings, Site, measure_rows
from tests.benchmark.rows import Row, collapsed, load_rows, save_rows
from tests.benchmark.series import Series
from tests.lab.build import PROJECT
from tests.lab.errors import LabUnavailable

__all__ = ["main"]

_RESULTS: Final = PROJECT / "docs/benchmarks"
_PEERS: Final = _RESULTS / "peers.json"
_PAGE: Final = PROJECT / "docs/performance.md"
#: What the virtual machine measures, written by ``make interop``, has the same schema.
_LAB: Final = _RESULTS / "peers-lab.json"
_GROWTH_SECONDS: Final = 0.6  # for each point
_GROWTH_SPACE: Final = 16 << 20
_LAYERS_SECONDS: Final = 8.0  # a sample comes with each tick of the kernel's clock, of which there may be 100 a second
_FAIRNESS_SECONDS: Final = 2.0
_FAIRNESS_REPEATS: Final = 3


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}; all if none is given")
    parser.add_argument("--smoke", action="store_true", help="a minute of peers, which fails on a collapse only")
    parser.add_argument("--layers", metavar="BEFORE", help="where the time goes, at another commit and now")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.parts) - set(_PARTS))
    if unknown:
        parser.error(f"{unknown[0]} is no part; choose among {', '.join(_PARTS)}")
    raise_file_limit()
    begin = time.monotonic()
    try:
        work = _smoke() if given.smoke else _layers(given.layers) if given.layers else _all(given.parts or list(_PARTS))
        code = asyncio.run(_interruptible(work))
    except (BenchmarkError, LabUnavailable, IserError) as error:
        _say(f"benchmark: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("benchmark: ended before it was done; nothing of it is left")
        return 130
    _say(f"{time.monotonic() - begin:.0f} s")
    return code


async def _interruptible(work: Awaitable[int]) -> int:
    """Have SIGTERM end everything in order, as Ctrl-C does."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _all(parts: Sequence[str]) -> int:
    for name in parts:
        await _PARTS[name]()
    return 0


async def _smoke() -> int:
    """A row that collapsed is one that does so twice: something else on the machine may take its time for a while."""
    committed = load_rows(_PEERS)
    install_peers()
    lines: list[str] = []
    for _ in range(2):
        lines = collapsed(await _measure(SMOKE), committed)
        if not lines:
            return 0
        for line in lines:
            _say(f"collapsed: {line}")
    return 1


async def _measure(settings: Settings) -> list[Row]:
    with work_folder(3 * settings.disk) as folder:
        async with AsyncExitStack() as stack:
            site = await Site.start(stack, folder, settings)
            rows = await measure_rows(site, _say)
        return [*rows, await measure_workers(folder, settings, _say)]


def _environment() -> dict[str, Any]:
    return {**describe_environment("loopback"), **versions()}


async def _peers() -> None:
    install_peers()
    environment = _environment()
    rows = await _measure(FULL)
    settings = {"pairs": FULL.pairs, "seconds": FULL.seconds, "sessions": FULL.sessions, "disk": FULL.disk}
    save_rows(_PEERS, environment, settings, rows)
    put_part(_PAGE, "peers", [*describe(environment), "", *rows_table([*load_rows(_PEERS).values(), *_lab_rows()])])


def _lab_rows() -> list[Row]:
    return [*load_rows(_LAB).values()] if _LAB.exists() else []


async def _growth() -> None:
    from tests.benchmark.plots import draw_growth  # noqa: PLC0415 - takes a second, and the bench extra

    environment = _environment()
    with work_folder(_GROWTH_SPACE) as folder:
        series = await measure_growth(folder, _GROWTH_SECONDS, _say)
    _save("growth", environment, series)
    pictures = {}
    for against in dict.fromkeys(each.against for each in series):
        name = f"growth-{against.split()[0].lower()}.png"
        draw_growth([each for each in series if each.against == against], _RESULTS / name)
        pictures[against] = f"{_RESULTS.name}/{name}"
    put_part(_PAGE, "growth", [*describe(environment), "", *growth_table(series, pictures)])


async def _fairness() -> None:
    from tests.benchmark.plots import draw_fairness  # noqa: PLC0415 - takes a second, and the bench extra

    environment = _environment()
    with work_folder(_GROWTH_SPACE) as folder:
        meetings = await measure_fairness(folder, seconds=_FAIRNESS_SECONDS, repeats=_FAIRNESS_REPEATS, say=_say)
    _save("fairness", environment, meetings)
    draw_fairness(meetings, _RESULTS / "fairness.png")
    put_part(
        _PAGE, "fairness", [*describe(environment), "", *fairness_table(meetings, f"{_RESULTS.name}/fairness.png")]
    )


async def _layers(before: str) -> int:
    environment = _environment()
    with work_folder(_GROWTH_SPACE) as folder, checkout(before, folder) as root:
        profiles = await measure_layers(folder, [root, PROJECT], _LAYERS_SECONDS, _say)
        commits = f"Before: {commit_of(root)}. After: {commit_of(PROJECT)}."
    _save("layers", environment, profiles)
    put_part(_PAGE, "layers", [*describe(environment), "", commits, *layers_tables(profiles)])
    return 0


def _save(
    name: str, environment: dict[str, Any], found: Sequence[Series] | Sequence[Meeting] | Sequence[Profile]
) -> None:
    data = {
        "schema": f"iser-{name}", "version": 1, "environment": environment, name: [each.to_json() for each in found],
    }  # fmt: skip
    write_text(_RESULTS / f"{name}.json", json.dumps(data, indent=1) + "\n")


_PARTS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "peers": _peers,
    "growth": _growth,
    "fairness": _fairness,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
