"""``python -m tests.conformance [PATTERN...]``: run all tests, or those whose ``SUITE.TEST`` a pattern fits.

A complete run writes ``docs/conformance.md``, one of some tests ``.lab/conformance/conformance.md``; JUnit XML and the
output of each test go to ``.lab/conformance/``.  Exit code 0 if all is as ``expected.toml`` says, else 1.
"""

from __future__ import annotations

import asyncio
import datetime
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from tests.conformance.expected import EXPECTED, Expected, load_expected
from tests.conformance.kinds import places
from tests.conformance.page import passed_somewhere, render, write_junit
from tests.conformance.runner import run_all
from tests.conformance.tool import COMMAND, list_tests
from tests.conformance.verdict import Outcome, Place, Verdict
from tests.lab.build import FOLDER as LAB
from tests.lab.build import PROJECT
from tests.lab.packages import version_of

__all__ = ["main"]

FOLDER: Final = LAB / "conformance"
PAGE: Final = PROJECT / "docs/conformance.md"
_PACKAGE: Final = "libiscsi-bin"
_NEWS: Final = {Verdict.FAIL, Verdict.HANG}


def main(patterns: list[str]) -> int:
    """The exit code."""
    if shutil.which(COMMAND) is None:
        sys.stdout.write(f"conformance needs {COMMAND}: apt-get install {_PACKAGE}\n")
        return 1
    expected = load_expected()
    start = time.monotonic()
    tests, found = asyncio.run(_run(patterns, expected))
    seconds = time.monotonic() - start
    version = version_of(_PACKAGE) or "unknown"
    versions = {
        "Date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "Tool": f"{COMMAND} of {_PACKAGE} {version}",
        "Target": f"this project on Python {platform.python_version()}, `iscsi://`",
    }
    page = FOLDER / PAGE.name if patterns else PAGE
    page.write_text(render(found, expected, versions))
    write_junit(FOLDER / "junit.xml", found, expected)
    wrong = expected.differences(found)
    if not patterns:
        wrong += expected.stale(found)
        if len(tests) != expected.tests:
            wrong.append(f"the tool has {len(tests)} tests, expected {expected.tests}")
    if wrong and not version.startswith(expected.tool):
        wrong.append(f"{EXPECTED.name} is for libiscsi {expected.tool}, and this is {version}: that may be why")
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    counts = f"{len(passed_somewhere(found))} of {len(tests)} tests pass in at least one kind of LUN"
    sys.stdout.write(f"{page}: {counts}; {len(wrong)} not as expected; {seconds:.0f} s\n")
    return 1 if wrong or not found else 0


async def _run(patterns: list[str], expected: Expected) -> tuple[list[str], Mapping[Place, Outcome]]:
    """The names of the tests chosen, and what came of each in each kind, in the order of the kinds."""
    every = await list_tests()
    tests = [test for test in every if not patterns or any(fnmatchcase(test, pattern) for pattern in patterns)]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    def told(place: Place, outcome: Outcome) -> None:
        if expected.judge(place, outcome).verdict in _NEWS:
            sys.stdout.write(f"{place.kind}: {place.test}: {outcome.verdict}: {outcome.reason}\n")
            sys.stdout.flush()

    chosen = places(tests)
    found = await run_all(chosen, FOLDER, told=told)
    return tests, {place: expected.judge(place, found[place]) for place in chosen}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
