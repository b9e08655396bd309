"""``python -m tests.interop.rxe_benchmark``: our target against tgt, both on rxe, with the kernel's initiator.

All three are in one guest, which is emulated: the ratio of the two means something, the figures do not.  Both disks
are logged in to all the time; fio reads 64 KiB blocks of one, then of the other.  Writes
``docs/benchmarks/peers-lab.json`` as ``docs/benchmarks/schema.md`` says.  Exit code 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from initiator.bench.environment import describe_environment
from tests.benchmark.rows import GOALS, Row, Verdict, save_rows
from tests.interop.peers.guest import GUEST_ROCE, GuestProcess
from tests.interop.peers.sessions import KernelSession, prepare_guest
from tests.interop.peers.tgt import Tgt
from tests.lab import LabError, LabUnavailable, Machine, prepare
from tests.lab.build import PROJECT
from tests.lab.packages import version_of

__all__ = ["measure"]

RESULT: Final = PROJECT / "docs/benchmarks/peers-lab.json"
PAIRS: Final = 7
SECONDS: Final = 3.0
DEPTH: Final = 32
_SIZE: Final = 64 << 20  # what is read: our target registers memory when it is first used, which the warm-up does
_WARM_UP: Final = 4.0
_NAME: Final = "iqn.2026-11.lab:rxe"
_TABLES: Final = f"""
[[target]]
name = "{_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = {_SIZE}
"""
_PORT: Final = 3290
#: tgt registers its pool of memory during the first login.
_PATIENT: Final = {"node.conn[0].timeo.login_timeout": "90"}
_FIO: Final = (
    "fio --name=lab --filename={path} --direct=1 --ioengine=libaio --iodepth={depth} --bs=64k --rw=randread"
    " --size={size} --runtime={seconds} --time_based --output-format=json"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """``seconds`` is how long fio reads of one disk before it is the other's turn."""

    pairs: int
    seconds: float


def measure(lab: Machine, settings: Settings, say: Callable[[str], None]) -> Row:
    """Log in to both, and take turns.  Raises LabError."""
    prepare_guest(lab)
    with ExitStack() as stack:
        ours = stack.enter_context(GuestProcess(lab, GUEST_ROCE, _PORT, _TABLES).serving())
        tgt = Tgt(lab)
        tgt.start()
        stack.callback(lab.run, tgt.kill_script, check=False)
        disks = [
            stack.enter_context(KernelSession(lab, name, portal, "iser").logged_in(_PATIENT)).path
            for name, portal in ((_NAME, ours.portal_of(0)), (tgt.name, f"{GUEST_ROCE}:{tgt.port}"))
        ]
        for path in disks:
            _rate(lab, path, _WARM_UP)
        found: tuple[list[float], list[float]] = [], []
        for number in range(settings.pairs):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                found[side].append(_rate(lab, disks[side], settings.seconds))
            say(f"ours {found[0][-1]:.1f} MB/s, tgt {found[1][-1]:.1f} MB/s, {found[0][-1] / found[1][-1]:.2f}")
    return Row(GOALS["lab-64k"], *found)


def _rate(lab: Machine, path: str, seconds: float) -> float:
    """MB/s (10^6 bytes) of fio."""
    command = _FIO.format(path=path, depth=DEPTH, size=_SIZE, seconds=seconds)
    said: dict[str, Any] = json.loads(lab.run(command, seconds=seconds + 60).out)
    return float(said["jobs"][0]["read"]["bw_bytes"]) / 1e6


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.rxe_benchmark", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each side of a pair")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args(arguments)
    settings = Settings(given.pairs, given.seconds)
    environment = describe_environment("RoCE (rxe) in an emulated machine")
    try:
        build = prepare()
        with Machine.boot(build) as lab:
            row = measure(lab, settings, _say)
    except LabUnavailable as why:
        _say(f"benchmark skipped: {why}")
        return 0
    except LabError as error:
        _say(f"benchmark: {error}")
        return 1
    environment |= {"guest": build.release, "tgt": version_of("tgt"), "fio": version_of("fio")}
    save_rows(given.output, environment, {"pairs": given.pairs, "seconds": given.seconds, "depth": DEPTH}, [row])
    goal = row.goal
    _say(f"{goal.what}: {row.value:.2f} of {goal.peer} (must {goal.must}, aim {goal.aim}): {row.verdict}")
    return int(row.verdict is Verdict.MISSED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
