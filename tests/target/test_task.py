"""Tests of target.task: when the memory of a command may go."""

from __future__ import annotations

import time

from iser.pdu import ScsiCommand
from target.scsi import GOOD, ScsiTask
from target.scsi.nexus import Nexus
from target.task import Task


def test_memory_is_in_use_while_the_rnic_or_a_coroutine_works_on_it() -> None:
    before = time.perf_counter_ns()
    task = Task(ScsiCommand(itt=7), ScsiTask(0, bytes(16), 1, 7, 0, Nexus("i")), GOOD, 4096)
    assert before <= task.started <= time.perf_counter_ns()
    assert not task.busy
    task.moving = True
    task.running += 1
    assert task.busy
    task.moving = False
    assert task.busy
    task.running -= 1
    assert not task.busy
