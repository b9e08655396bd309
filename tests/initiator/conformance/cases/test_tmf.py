"""Each case about task management finds the fault that it looks for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from iser.pdu import Pdu, Reject, ScsiResponse, TaskManagementRequest, TaskManagementResponse
from target.management import TaskManager
from target.scsi import TargetDevice
from target.session import Session
from tests.initiator.conformance.bad import FAIL, SKIP, WARN, Fault, check, wrap

__all__ = ["FAULTS"]

_ALL: Final = (
    "abort-nothing", "no-lun", "abort-task", "abort-task-set", "clear-task-set", "lun-reset", "reset-attention",
    "reassign", "unknown", "warm-reset", "cold-reset",
)  # fmt: skip


def _names(*names: str) -> list[str]:
    return [f"tmf.{name}" for name in names]


def _answer(code: int) -> Any:
    """Every function is answered with ``code``, and does nothing."""

    def make(old: Any) -> Any:
        del old

        def management(self: Session, pdu: Pdu) -> None:
            self._slot_over(pdu.bhs.opcode)
            self._send(TaskManagementResponse(response=code, itt=pdu.bhs.itt))

        return management

    return wrap(Session, "_task_management", make)


def _instead(what: Any) -> Any:
    """What happens to a function instead."""

    def make(old: Any) -> Any:
        def notify(self: Session, pdu: Pdu) -> None:
            if isinstance(pdu.bhs, TaskManagementRequest):
                what(self, pdu)
            else:
                old(self, pdu)

        return notify

    return wrap(Session, "control_notify", make)


def _reject(session: Session, pdu: Pdu) -> None:
    del pdu
    session._send(Reject(reason=5), bytes(48))


def _close(session: Session, pdu: Pdu) -> None:
    del pdu
    session.close("a function")


def _late_response(old: Any) -> Any:
    """A task that was aborted answers behind the function."""

    def management(self: Session, pdu: Pdu) -> None:
        old(self, pdu)
        self._send(ScsiResponse(itt=1))

    return management


def _drop_reads(old: Any) -> Any:
    """Reads never end, and a function does not find them."""
    del old
    return lambda self, task, plan: None


FAULTS: Final = (
    Fault("no answer", _instead(lambda self, pdu: None), {
        "tmf.abort-nothing": FAIL, "tmf.abort-task": FAIL, "tmf.lun-reset": FAIL,
    }),
    Fault("rejected", _instead(_reject), dict.fromkeys(_names(*_ALL), WARN)),
    Fault("closes", _instead(_close), dict.fromkeys(_names("reassign", "unknown"), WARN)),
    Fault("always complete", _answer(0), {
        "tmf.abort-nothing": WARN, "tmf.no-lun": FAIL, "tmf.unknown": FAIL, "tmf.reassign": FAIL,
        "tmf.reset-attention": WARN,
    }),
    Fault("no task, ever", _answer(1), {
        "tmf.abort-task-set": FAIL, "tmf.clear-task-set": FAIL, "tmf.lun-reset": FAIL, "tmf.warm-reset": FAIL,
        "tmf.cold-reset": FAIL,
    }),
    Fault("not supported", _answer(5), {
        "tmf.abort-nothing": FAIL, "tmf.no-lun": WARN, "tmf.abort-task": FAIL,
        "tmf.abort-task-set": SKIP, "tmf.cold-reset": SKIP,
        "tmf.reset-attention": SKIP,
    }),
    Fault("answers behind", wrap(Session, "_task_management", _late_response), {
        "tmf.abort-task": FAIL, "tmf.abort-task-set": FAIL, "tmf.clear-task-set": FAIL, "tmf.lun-reset": FAIL,
        "tmf.warm-reset": FAIL,
    }),
    Fault("resets nothing", wrap(TargetDevice, "lun_reset", lambda _: lambda self, unit, by=None: None), {
        "tmf.reset-attention": WARN,
    }),
    Fault(
        "aborts nothing",
        wrap(TaskManager, "_abort_task", lambda _: lambda self, session, bhs, done: done(1)),
        {"tmf.abort-task": FAIL},
    ),
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault.what == "aborts nothing":
        # A command that is on its way for ever, or it would be answered before the function comes.
        monkeypatch.setattr("target.execution.Execution._read", _drop_reads(None))
    await check(fault, monkeypatch)
