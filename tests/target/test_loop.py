"""Tests of target.loop, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAD = "import asyncio, sys, threading, time\n{first}\nfrom target.loop import leave, run\n"
SAY = "async def main():\n    print(type(asyncio.get_running_loop()).__module__)\nrun(main())\n"
STUCK = """async def main():
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("said")
    leave()
run(main())
"""


def told(text: str, first: str = "") -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-c", HEAD.format(first=first) + text], stdout=subprocess.PIPE, text=True, check=False
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize("first", ["", "sys.modules['uvloop'] = None"])
def test_it_runs_with_uvloop_and_without(first: str) -> None:
    code, loop = told(SAY, first)
    assert code == 0
    assert loop.startswith("asyncio" if first else ("uvloop", "asyncio"))


def test_a_process_can_leave_threads_that_are_stuck() -> None:
    began = time.monotonic()
    assert told(STUCK) == (1, "said\n")
    assert time.monotonic() - began < 30
