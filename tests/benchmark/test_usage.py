"""Tests of tests.benchmark.usage: processor time and memory of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmark.usage import cpu_seconds, family, memory


@contextmanager
def running(code: str) -> Iterator[int]:
    """A Python process that said that it is ready; gives its id."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_processor_time_counts_children_that_run_and_that_ended() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\n"
    ended = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('ready', flush=True); input()"
    )
    with running(ended) as pid:
        assert cpu_seconds(pid) > 0.15
    child = f"{busy}print('ready', flush=True); input()"
    runs = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    with running(runs) as pid:
        assert cpu_seconds(pid) > 0.15
        assert len(family(pid)) == 2


def test_processor_time_of_what_waits_stands_still() -> None:
    with running("print('ready', flush=True); input()") as pid:
        before = cpu_seconds(pid)
        assert cpu_seconds(pid) - before <= 0.02


def test_memory_grows_by_what_was_touched() -> None:
    with (
        running("print('ready', flush=True); input()") as little,
        running("held = b'x' * (64 << 20); print('ready', flush=True); input()") as much,
    ):
        grown = [one - other for one, other in zip(memory(much), memory(little), strict=True)]
    assert all(abs(each - (64 << 20)) < 4 << 20 for each in grown)


def test_a_process_that_is_gone_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_seconds(process.pid) == 0
    assert family(process.pid) == [process.pid]
    assert os.getpid() in family(os.getppid())
