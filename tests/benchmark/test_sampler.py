"""Tests of tests.benchmark.sampler: which layer a sample counts for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.benchmark import sampler
from tests.benchmark.sampler import LAYERS

BUSY = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
SENDING = """
import socket
def burn(seconds):
    one, other = socket.socketpair()
    data, room = bytes(1 << 17), bytearray(1 << 17)
    import time
    end = time.process_time() + seconds
    while time.process_time() < end:
        one.send(data); other.recv_into(room)
"""
MAIN = """
import asyncio, json, os, signal, sys
import iser.pdu.busy, target.scsi.busy, iser.net.busy
async def work():
    os.kill(os.getpid(), signal.SIGUSR1)
    iser.pdu.busy.burn(0.3)
    target.scsi.busy.burn(0.6)
    iser.net.busy.burn(0.3)
    os.kill(os.getpid(), signal.SIGUSR1)
asyncio.run(work())
"""


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """What the sampler counts in a program with files where the project has its layers."""
    tmp_path = tmp_path_factory.mktemp("layers")
    for name, text in {"iser/pdu": BUSY, "target/scsi": BUSY, "iser/net": SENDING}.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "busy.py").write_text(text)
    (tmp_path / "program.py").write_text(MAIN)
    output = tmp_path / "counts.json"
    subprocess.run(
        [sys.executable, "-P", sampler.__file__, str(output), str(tmp_path), "program"],
        env={"PYTHONPATH": str(tmp_path)}, check=True, timeout=30,
    )  # fmt: skip
    found: dict[str, int] = json.loads(output.read_text())
    return found


def test_processor_time_is_told_apart_by_layer(counts: Mapping[str, int]) -> None:
    every = sum(counts.values())
    assert every >= 30
    assert set(counts) <= set(LAYERS)
    assert 0.1 < counts["PDUs"] / every < 0.45
    assert 0.3 < counts["SCSI and the backend"] / every < 0.7


def test_system_calls_for_data_are_the_kernel_s(counts: Mapping[str, int]) -> None:
    kernel = counts.get("kernel: sending", 0) + counts.get("kernel: receiving", 0)
    assert kernel > counts.get("sockets and the RNIC", 0)


def test_the_program_runs_as_if_by_itself(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys; print(__name__, sys.argv)")
    command = [sys.executable, "-P", sampler.__file__, "none", str(tmp_path), str(program), "--flag"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    assert printed == f"__main__ {[str(program), '--flag']}\n"
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
