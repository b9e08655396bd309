"""``python -m tests.interop [ROW...]``: run the rows (all, or those whose module names contain a word given).

Writes ``docs/interop.md`` after a complete run, ``.lab/interop.md`` after one of some rows, and JUnit XML to
``.lab/interop.xml``.  Exit code 0 if nothing failed but what :mod:`tests.interop.known` lists.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.interop.matrix import Verdict
from tests.interop.page import render
from tests.interop.recorder import Recorder
from tests.lab import Build, LabUnavailable, prepare
from tests.lab.build import FOLDER, PROJECT
from tests.lab.packages import version_of

__all__ = ["main"]

ROWS: Final = Path(__file__).resolve().parent / "rows"
PAGE: Final = PROJECT / "docs/interop.md"
JUNIT: Final = FOLDER / "interop.xml"
_TIMEOUT: Final = 300  # seconds for one test: all is emulated
_MACHINES: Final = 2  # that run rows side by side: rows wait as much as they compute
#: Modules that take long, begun first, so that no machine is left with them at the end.
_LONG: Final = (
    "target_verbs", "target_ib_iser", "conformance", "initiator_verbs", "target_libiscsi", "target_open_iscsi",
    "reservations", "initiator_lio", "initiator_tgt", "sg3_utils", "multipath",
)  # fmt: skip
_PEERS: Final = ("open-iscsi", "tgt", "libiscsi7", "rdma-core", "qemu-system-x86", "fio", "sg3-utils")


def main(words: list[str]) -> int:
    """The exit code."""
    start = time.monotonic()
    try:
        build = prepare()
    except LabUnavailable as why:
        sys.stdout.write(f"interop skipped: {why}\n")
        return 0
    recorder = Recorder()
    code = pytest.main(_arguments(_modules(words), JUNIT), plugins=[recorder])
    if recorder.failed:
        # A machine under emulation is slow and its soft devices hang now and then: what failed gets a fresh one.  The
        # page tells which cells needed it.
        again = Recorder()
        modules = sorted(set(recorder.failed.values()))
        code = pytest.main(_arguments(modules, JUNIT.with_stem("interop-again")), plugins=[again])
        recorder.matrix.amend(again.matrix)
        if code == pytest.ExitCode.TESTS_FAILED and not recorder.failed.keys() & again.failed.keys():
            code = pytest.ExitCode.OK
    if next(iter(recorder.matrix), None) is None:
        return int(code) or 1
    page = FOLDER / PAGE.name if words else PAGE
    page.write_text(render(recorder.matrix, _versions(build), time.monotonic() - start))
    bad = recorder.matrix.count(Verdict.FAIL)
    sys.stdout.write(f"{page}: {bad} failed, {recorder.matrix.count(Verdict.PASS)} passed\n")
    return int(code)


def _modules(words: list[str]) -> list[Path]:
    modules = [path for path in ROWS.glob("*.py") if path.name != "__init__.py"]
    modules.sort(key=lambda path: (_LONG.index(path.stem) if path.stem in _LONG else len(_LONG), path.stem))
    chosen = [path for path in modules if not words or any(word in path.stem for word in words)]
    if not chosen:
        sys.exit(f"no row is called so; there are {', '.join(path.stem for path in modules)}")
    return chosen


def _arguments(modules: list[Path], junit: Path) -> list[str]:
    return [
        *map(str, modules),
        "-q",
        f"-n{min(_MACHINES, os.cpu_count() or 1)}",
        "--dist=loadscope",
        "--no-loadscope-reorder",
        "-rfE",
        "--tb=native",
        f"--timeout={_TIMEOUT}",
        f"--junitxml={junit}",
        "-o",
        "junit_family=xunit1",
    ]


def _versions(build: Build) -> dict[str, str]:
    return {
        "Date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "Kernel of the guest (LIO, ib_iser, siw, rxe)": f"{build.release} (Debian {_kernel_version(build)})",
        "Debian packages": ", ".join(f"{name} {version_of(name)}" for name in _PEERS),
        "Our side": f"Python {platform.python_version()}",
    }


def _kernel_version(build: Build) -> str:
    """The version of the kernel's package, from the name of its file."""
    return next((deb.name.split("_")[1] for deb in FOLDER.glob(f"debs/linux-image-{build.release}_*.deb")), "unknown")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
