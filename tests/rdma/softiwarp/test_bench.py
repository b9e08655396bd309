"""The benchmark runs and prints every figure."""

from __future__ import annotations

import subprocess
import sys


def test_the_benchmark_prints_its_figures() -> None:
    command = [sys.executable, "-m", "iser.rdma.softiwarp.bench", "16", "64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    lines = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert lines == [
        "raw TCP",
        "1 MiB RDMA Write",
        "1 MiB RDMA Read",
        "Send ping-pong",
        "4 KiB exchange x1",
        "4 KiB exchange x32",
    ]
    assert not done.stderr
