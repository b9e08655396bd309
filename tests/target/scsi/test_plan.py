"""Plans and tasks."""

from __future__ import annotations

from target.scsi import GOOD, Done, Nexus, ScsiTask


def test_a_plain_answer_is_good_and_empty() -> None:
    assert (GOOD.status, GOOD.sense, GOOD.data_in) == (0, b"", b"")
    assert Done() == GOOD


def test_tasks_are_small() -> None:
    task = ScsiTask(0, bytes(16), 1, 1, 0, Nexus("i"))
    assert not hasattr(task, "__dict__")
    assert task.data_out == b""
