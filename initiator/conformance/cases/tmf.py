"""Task management functions (RFC 7143 sections 11.5 and 11.6)."""

from __future__ import annotations

from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Skipped, Unusual, require
from iser.pdu import FINAL, IMMEDIATE, Reject, ScsiResponse, TaskManagementRequest, TaskManagementResponse
from iser.pdu.const import TaskManagementFunction as Function
from iser.pdu.const import TaskManagementResponseCode as Code
from iser.scsi.cdb import read_blocks, test_unit_ready
from iser.scsi.lun import encode_lun

__all__ = ["CASES"]

_LOAD: Final = 16  # reads on their way when a function comes
_NO_LUN: Final = 200
_NOT_HERE: Final = (Code.FUNCTION_NOT_SUPPORTED, Code.FUNCTION_REJECTED, Code.AUTHORIZATION_FAILED)


def _request(session: Session, function: int, **fields: Any) -> TaskManagementRequest:
    bhs = TaskManagementRequest(opcode=0x02 | IMMEDIATE, flags=FINAL | function, lun=session.lun)
    return bhs._replace(**fields)


async def _manage(session: Session, function: int, **fields: Any) -> tuple[int, set[int]]:
    """The response code, and the tags of the commands that were answered before it; Unusual where there is none."""
    name = Function(function).name if function in set(Function) else f"function {function:#x}"
    itt = session.send(_request(session, function, **fields))
    answered: set[int] = set()
    while True:
        arrival = await session.anything()
        if arrival is None:
            require(session.end, f"{name} is not answered")
            raise Unusual(f"the target closes the connection on {name}; the answer is a response code")
        bhs = arrival.bhs
        if not isinstance(bhs, ScsiResponse):
            break
        answered.add(bhs.itt)
    if isinstance(bhs, Reject):
        raise Unusual(f"{name} is answered with a Reject, reason {bhs.reason:#04x}, not with a response code")
    require(isinstance(bhs, TaskManagementResponse), f"{name} is answered with a {type(bhs).__name__}")
    require(bhs.itt == itt, f"the response to {name} has ITT {bhs.itt:#x}, not {itt:#x}")
    return int(bhs.response), answered


async def _code(session: Session, function: int, **fields: Any) -> int:
    """The response code alone."""
    return (await _manage(session, function, **fields))[0]


def _named(code: int) -> str:
    return f"{code} {Code(code).name}" if code in set(Code) else str(code)


async def _no_task(site: Site) -> None:
    async with site.session() as session:
        # RefCmdSN outside the window: a task that was done long ago.
        fields = {"referenced_task_tag": 0x7777, "ref_cmd_sn": (session.cmd_sn - 100) & 0xFFFFFFFF}
        code = await _code(session, Function.ABORT_TASK, **fields)
        if code == Code.FUNCTION_COMPLETE:
            raise Unusual("ABORT TASK of a task that is not there is complete; most say 1, task does not exist")
        require(code == Code.TASK_DOES_NOT_EXIST, f"ABORT TASK of a task that is not there is answered {_named(code)}")
        await session.good(test_unit_ready())


async def _no_lun(site: Site) -> None:
    async with site.session() as session:
        code = await _code(session, Function.LOGICAL_UNIT_RESET, lun=encode_lun(_NO_LUN))
        require(code != Code.FUNCTION_COMPLETE, f"LOGICAL UNIT RESET of LUN {_NO_LUN}, which is not there, is complete")
        if code != Code.LUN_DOES_NOT_EXIST:
            raise Unusual(f"LOGICAL UNIT RESET of LUN {_NO_LUN} is answered {_named(code)}; most say 2, no such LUN")


async def _unknown(site: Site) -> None:
    async with site.session() as session:
        code = await _code(session, 0x70)
        require(code in _NOT_HERE, f"the function 70h, which does not exist, is answered {_named(code)}")
        await session.good(test_unit_ready())


async def _reassign(site: Site) -> None:
    async with site.session() as session:
        code = await _code(session, Function.TASK_REASSIGN, referenced_task_tag=0x7777)
        usual = (Code.REASSIGNMENT_NOT_SUPPORTED, Code.TASK_DOES_NOT_EXIST, *_NOT_HERE)
        require(code in usual, f"TASK REASSIGN at ErrorRecoveryLevel 0 is answered {_named(code)}")


def _load(session: Session, site: Site) -> list[int]:
    """Reads on their way."""
    size = min(64 << 10, site.blocks * site.block_size)
    count = min(session.window, _LOAD)
    blocks = size // site.block_size
    return [session.send_command(read_blocks(0, blocks), read=session.read_region(size)) for _ in range(count)]


async def _settled(session: Session, what: str) -> None:
    """Behind a function's response its tasks send nothing and touch nothing."""
    late = session.operations
    await session.silence(f"after the response to {what}, a task that it ended")
    require(late == session.operations, f"the target touched our memory after its response to {what}")


async def _abort_task(site: Site) -> None:
    async with site.session() as session:
        tasks = _load(session, site)
        last = session.cmd_sn - 1 & 0xFFFFFFFF
        code, answered = await _manage(session, Function.ABORT_TASK, referenced_task_tag=tasks[-1], ref_cmd_sn=last)
        require(code in (Code.FUNCTION_COMPLETE, Code.TASK_DOES_NOT_EXIST), f"ABORT TASK is answered {_named(code)}")
        if tasks[-1] not in answered:
            require(code == Code.FUNCTION_COMPLETE, "ABORT TASK says that there is no such task, which had no response")
        for itt in tasks[:-1]:
            if itt not in answered:
                await session.answer(itt)
        await _settled(session, "ABORT TASK")
        await session.good(test_unit_ready())


def _ends(function: Function, *, others: bool = True) -> Any:
    """A function that ends many tasks: each was answered before its response, or never is."""

    async def run(site: Site) -> None:
        async with site.session() as session:
            _load(session, site)
            code = await _code(session, function)
            if code in _NOT_HERE:
                raise Skipped(f"the target answers {_named(code)} to {function.name}")
            require(code == Code.FUNCTION_COMPLETE, f"{function.name} is answered {_named(code)}")
            if others:
                await _settled(session, function.name)
                await site.clear_attentions(session)
        async with site.session() as session:
            await session.read(0, 1)

    return run


async def _reset_attention(site: Site) -> None:
    async with site.session() as other, site.session() as session:
        code = await _code(session, Function.LOGICAL_UNIT_RESET)
        if code in _NOT_HERE:
            raise Skipped(f"the target answers {_named(code)} to LOGICAL_UNIT_RESET")
        answer = await other.command(test_unit_ready())
        if not answer.bhs.status:
            raise Unusual("another nexus gets no unit attention after a LOGICAL UNIT RESET")
        require(answer.bhs.status == 2, f"another nexus gets status {answer.bhs.status:#04x} after a reset")


CASES: Final = (
    Case("abort-nothing", "ABORT TASK of no task", "RFC 7143 11.6.1", _no_task),
    Case("no-lun", "a function for a LUN that is not there", "RFC 7143 11.6.1", _no_lun),
    Case("abort-task", "ABORT TASK under load", "RFC 7143 11.5.1, 11.6.1", _abort_task),
    Case("abort-task-set", "ABORT TASK SET under load", "RFC 7143 4.2.3.3", _ends(Function.ABORT_TASK_SET)),
    Case("clear-task-set", "CLEAR TASK SET under load", "RFC 7143 4.2.3.3", _ends(Function.CLEAR_TASK_SET)),
    Case("lun-reset", "LOGICAL UNIT RESET under load", "RFC 7143 4.2.3.3", _ends(Function.LOGICAL_UNIT_RESET)),
    Case("reset-attention", "a reset is a unit attention for others", "SAM-5 6.3", _reset_attention),
    Case("reassign", "TASK REASSIGN at ErrorRecoveryLevel 0", "RFC 7143 11.5.1", _reassign, risky=True),
    Case("unknown", "a function that does not exist", "RFC 7143 11.6.1", _unknown, risky=True),
    Case("warm-reset", "TARGET WARM RESET", "RFC 7143 11.5.1", _ends(Function.TARGET_WARM_RESET), risky=True),
    Case(
        "cold-reset",
        "TARGET COLD RESET",
        "RFC 7143 11.5.1",
        _ends(Function.TARGET_COLD_RESET, others=False),
        risky=True,
    ),
)
