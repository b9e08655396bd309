"""Runs ``iscsi-test-cu`` (Debian's libiscsi-bin), one test at a time, and reads what it prints."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.conformance.verdict import Outcome, Verdict

__all__ = ["COMMAND", "TEST_SECONDS", "list_tests", "read_output", "run_test"]

COMMAND: Final = "iscsi-test-cu"
#: The longest test sleeps for a minute, while it waits for SANITIZE.
TEST_SECONDS: Final = 120.0

_FAMILY: Final = "ALL."
_TOTALS: Final = re.compile(r"^ +tests +(?P<total>\d+) +(?P<ran>\d+) +(?P<passed>\d+) +(?P<failed>\d+) ", re.MULTILINE)
_SKIPPED: Final = re.compile(r"\[SKIPPED\] *(.*)")
#: CUnit's list of assertions that did not hold: ``    1. test_read10.c:42  - CU_ASSERT_EQUAL(a,b)``; the tool may go on
#: behind it, on the same line.
_ASSERTION: Final = re.compile(r"^ +\d+\. (?P<where>[\w.-]+\.c:\d+) +- (?P<what>.*?\))(?: {2}.*)?$", re.MULTILINE)


async def list_tests(command: str = COMMAND) -> list[str]:
    """The names of all tests, as ``SUITE.TEST``, in the tool's order."""
    process = await asyncio.create_subprocess_exec(command, "--list", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    names = (line.strip() for line in out.decode().splitlines())
    return [name.removeprefix(_FAMILY) for name in names if name.startswith(_FAMILY) and name.count(".") == 2]


async def run_test(
    test: str, urls: Sequence[str], log: Path, *, command: str = COMMAND, timeout: float = TEST_SECONDS
) -> Outcome:
    """Run ``test`` on the LUN at the first of ``urls``; a second one is another path to it.

    What the tool prints goes to ``log``.  After ``timeout`` seconds the test has hung and the tool is killed.
    """
    start = time.monotonic()
    arguments = ("--dataloss", "--allow-sanitize", "--Verbose-scsi", f"--test={_FAMILY}{test}", *urls)
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(command, *arguments, stdout=sink, stderr=sink)
        try:
            code = await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            return Outcome(Verdict.HANG, f"still running after {timeout:g} s", seconds=timeout)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    outcome = read_output(await asyncio.to_thread(log.read_text, errors="replace"), code)
    return outcome._replace(seconds=time.monotonic() - start)


def read_output(text: str, code: int) -> Outcome:
    """What the tool's output and exit code say of the one test that it was asked for."""
    failures = [(match["where"], match["what"]) for match in _ASSERTION.finditer(text)]
    if failures:
        where = tuple(dict.fromkeys(place for place, _ in failures))
        return Outcome(Verdict.FAIL, "; ".join(f"{place}: {what}" for place, what in failures[:3]), where)
    totals = _TOTALS.search(text)
    if totals is None:
        return Outcome(Verdict.FAIL, f"ended with code {code} and without a summary: {_last_line(text)}")
    if totals["ran"] != "1" or totals["failed"] != "0" or code:
        return Outcome(Verdict.FAIL, f"ended with code {code}: {totals['ran']} ran, {totals['failed']} failed")
    skipped = _SKIPPED.search(text)
    return Outcome(Verdict.SKIP, skipped[1].strip()) if skipped else Outcome(Verdict.PASS)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
