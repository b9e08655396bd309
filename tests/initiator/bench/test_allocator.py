"""Tests of initiator.bench.allocator: freed memory is not given back to the system."""

from __future__ import annotations

import resource
import subprocess
import sys

from initiator.bench.allocator import keep_freed_memory

ROUNDS = 20
PROBE = f"""
import resource
from initiator.bench.allocator import keep_freed_memory
assert keep_freed_memory()
def work():
    for _ in range({ROUNDS}):
        held = [bytearray(512 << 10) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_was_freed_comes_again_without_a_page_fault() -> None:
    """In a process of its own: what this one has allocated before would decide."""
    found = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    pages = ROUNDS * 8 * (512 << 10) // resource.getpagesize()
    assert int(found.stdout) < pages // 100


def test_it_may_be_asked_for_again() -> None:
    assert keep_freed_memory() == keep_freed_memory()
