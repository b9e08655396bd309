"""Every SCSI command with random CDBs, data and expected lengths, over both transports.

A second device of the same kind, to which the commands go by hand, says what status, sense, data and residual have
to be there.  The sessions must live on, no task be left, and nothing be logged that is an error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initiator.establish import Link, open_session
from initiator.options import ConnectOptions
from initiator.task import ScsiResult
from initiator.url import Portal
from iser.login import Transport
from iser.scsi.cdb import BYTCHK_BLOCK, BYTCHK_DATA, TRANSFER_PARSERS, cdb_length, transfer
from iser.scsi.codes import INVALID_INFORMATION_UNIT
from iser.scsi.const import Opcode, ServiceAction, Status, VpdPage
from iser.sg import SgList
from target.config import Config
from target.config.build import build_device
from target.scsi import Async, Done, LogicalUnit, Nexus, ReadMedia, ScsiTask, TargetDevice, WriteMedia
from target.scsi.commands import COMMANDS, DEVICE_COMMANDS, Command
from tests.target.peer import TARGET, config, serving
from tests.target.scsi.test_copy import listed, segment, target
from tests.target.scsi.test_fuzz import BYTES, cdbs

MOST = 64 << 10  # bytes that one command is given or offered
KINDS = ("memory", "file")
FILL = 0xA5
_VERIFY = (Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16)
_SAME = (Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16)
#: Where parameter lists have their length.
_LIST_LENGTH = {
    Opcode.MODE_SELECT_6: slice(4, 5),
    Opcode.MODE_SELECT_10: slice(7, 9),
    Opcode.UNMAP: slice(7, 9),
    Opcode.SANITIZE: slice(7, 9),
    Opcode.PERSISTENT_RESERVE_OUT: slice(5, 9),
    Opcode.EXTENDED_COPY: slice(10, 14),
}


@dataclass(frozen=True)
class Step:
    """A command of one of two sessions; ``direction`` is what its initiator expects: i in, o out, - nothing.

    ``excess`` is by how many bytes it expects more than the CDB says, or None for ``length``, whatever that says.
    """

    cdb: bytes
    second: bool
    lun: int
    direction: str
    excess: int | None
    length: int
    data: int


def natural(cdb: bytes) -> int:
    """The bytes that a CDB moves, where one can tell from it; parameter lists have what they need to make sense."""
    opcode = Opcode(cdb[0])
    if opcode in TRANSFER_PARSERS and opcode != Opcode.PRE_FETCH_10:
        flags, _, blocks = TRANSFER_PARSERS[opcode](cdb)
        factor = {Opcode.COMPARE_AND_WRITE: 2 * blocks}.get(opcode, blocks)
        if opcode in _VERIFY:
            factor = {BYTCHK_DATA: blocks, BYTCHK_BLOCK: 1}.get(flags & 0x06, 0)
        return (1 if opcode in _SAME else factor) * 512
    place = _LIST_LENGTH.get(opcode)
    return int.from_bytes(cdb[place], "big") if place else 0


def parameters(cdb: bytes, choice: int, units: list[LogicalUnit]) -> bytes:
    """A list that the command may well understand."""
    small = bytes(((choice >> shift) & 3) for shift in range(0, 32, 2))
    if cdb[0] == Opcode.PERSISTENT_RESERVE_OUT:
        flags = (0, 0, 0, 0x01, 0x04, 0x08)[choice % 6]
        keys = bytes(7) + small[:1] + bytes(7) + small[1:2]
        return keys + bytes((0, 0, 0, 0, flags, 0, 0, 0)) + (bytes(4) if flags == 0x08 else b"")
    if cdb[0] == Opcode.UNMAP:
        return bytes((0, 22, 0, 16, 0, 0, 0, 0)) + bytes(7) + small[:1] + bytes(3) + small[1:2] + bytes(4)
    if cdb[0] == Opcode.EXTENDED_COPY:
        one = segment(small[0], small[1], small[2] * 8, source=small[3] & 1, destination=small[4] & 1)
        return listed([target(unit) for unit in units], [one], small[5])
    if cdb[0] in (Opcode.MODE_SELECT_6, Opcode.MODE_SELECT_10):
        page = bytes((0x0A, 10, small[0] << 1, 0x10, small[1] << 3, 0, 0, 0, 0xFF, 0xFF, 0, 0))
        return bytes(4 if cdb[0] == Opcode.MODE_SELECT_6 else 8) + page
    if cdb[0] == Opcode.SANITIZE:
        return bytes((1, 0, 0, 4)) + small[:4]
    return b""


def with_list(cdb: bytes, data: bytes) -> bytes:
    """``cdb`` with the length of the list that goes with it, where it has one."""
    place = _LIST_LENGTH[Opcode(cdb[0])]
    whole = bytearray(cdb)
    whole[place] = len(data).to_bytes(place.stop - place.start, "big")
    return bytes(whole)


def tamed(cdb: bytes) -> bytes:
    """Without what goes on after the answer (IMMED of SANITIZE), which nobody could compare."""
    return bytes((cdb[0], cdb[1] & 0x7F, *cdb[2:])) if cdb[0] == Opcode.SANITIZE else cdb


@st.composite
def sensible(draw: st.DrawFn) -> bytes:
    """A command that may well succeed: on blocks that are there, of pages that there are."""
    row: Command = draw(st.sampled_from([*DEVICE_COMMANDS, *COMMANDS]))
    cdb = bytearray(16)
    cdb[: len(row.usage)] = (bits & draw(BYTES) for bits in row.usage)
    cdb[0], opcode = row.opcode, row.opcode
    if row.action is not None:
        cdb[1] = cdb[1] & ~0x1F | row.action
    if opcode in TRANSFER_PARSERS:
        flags = draw(st.sampled_from((0, 0, 0x02, 0x06, 0x08, 0x10, 0x01))) & row.usage[1]
        lba, blocks = draw(st.integers(0, 130)), draw(st.integers(0, 12))
        six = cdb_length(opcode) == 6
        cdb[:] = transfer(opcode, lba, max(blocks, six), 0 if six else flags).ljust(16, b"\0")
        if opcode in (Opcode.COMPARE_AND_WRITE, Opcode.WRITE_ATOMIC_16):
            cdb[10:14] = bytes((0, 0, 0, blocks))
    elif opcode == Opcode.INQUIRY:
        cdb[1:5] = (0, 0, 0, 255) if draw(st.booleans()) else (1, draw(st.sampled_from(list(VpdPage))), 1, 0)
    elif opcode in (Opcode.MODE_SENSE_6, Opcode.MODE_SENSE_10):
        cdb[2:4] = draw(st.sampled_from((0x08, 0x0A, 0x1C, 0x3F, 0x4A, 0x88))), 0
    elif opcode in (Opcode.MODE_SELECT_6, Opcode.MODE_SELECT_10):
        cdb[1] = 0x10
    elif opcode == Opcode.LOG_SENSE:
        cdb[1:9] = (0, draw(st.sampled_from((0, 0x2F))), 0, 0, 0, 0, 0, 255)
    elif opcode == Opcode.PERSISTENT_RESERVE_OUT:
        cdb[2] = draw(st.integers(1, 8))
    elif opcode == Opcode.SERVICE_ACTION_IN_16:
        cdb[2:14] = bytes(7) + bytes((draw(st.integers(0, 130)), 0, 0, 0, draw(BYTES)))
    elif row.usage[6:10] == b"\xff" * 4:  # an allocation length
        cdb[6:9] = bytes(3)
    return bytes(cdb)


steps = st.lists(
    st.builds(
        Step,
        st.one_of(sensible(), sensible(), cdbs()).map(tamed),
        st.booleans(),
        st.sampled_from((0, 0, 0, 1, 1, 7)),
        st.sampled_from("iiooo-"),
        st.sampled_from((0, 0, 0, 0, 1, -1, 512, -512, 4096, None)),
        st.integers(0, 2048),
        st.integers(0, (1 << 32) - 1),
    ),
    min_size=1,
    max_size=30,
)


class Twin:
    """The device that is asked by hand, and what it answers."""

    def __init__(self, device: TargetDevice) -> None:
        self.device = device

    async def expected(
        self, nexus: Nexus, field: int, cdb: bytes, direction: str, data: bytes
    ) -> tuple[ScsiResult, bytes | None]:
        """The result, and the data that comes in; None where the two devices may differ."""
        edtl = len(data)
        task = ScsiTask(field, cdb, 1, 0, edtl, nexus)
        plan = self.device.start(task)
        moved = b""
        if isinstance(plan, ReadMedia):
            done, asked = Done(), plan.length
            buffer = bytearray(plan.length)
            await plan.lu.backend.readv(plan.offset, [memoryview(buffer)])
            moved = bytes(buffer)
        elif isinstance(plan, WriteMedia):
            done = await self._write(plan, data) if direction != "i" else self._wrong_direction(field)
            asked = plan.length
        elif isinstance(plan, Async):
            if plan.data_out_length and direction == "i":
                done = self._wrong_direction(field)
            else:
                task.data_out = memoryview(bytearray(data[: plan.data_out_length] if direction == "o" else b""))
                done = await plan.run()
            moved = done.data_in
            asked = len(moved) or plan.data_out_length
        else:
            assert isinstance(plan, Done)
            done, moved, asked = plan, plan.data_in, len(plan.data_in)
        if done.status != Status.GOOD or (moved and direction == "o"):
            asked, moved = 0, b""
        result = ScsiResult(done.status, done.sense, abs(asked - edtl), asked > edtl)
        return result, moved[:edtl] if direction == "i" else b""

    def _wrong_direction(self, field: int) -> Done:
        unit = self.device.unit(field)
        assert unit
        return unit.check(INVALID_INFORMATION_UNIT)

    @staticmethod
    async def _write(plan: WriteMedia, data: bytes) -> Done:
        length = min(plan.length, len(data))
        length -= length % plan.lu.block_size
        if length:
            await plan.lu.backend.writev(plan.offset, [memoryview(data)[:length]], plan.fua)
        return Done()


def settings_of(kind: str, transport: Transport, path: Path) -> Config:
    lun: dict[str, Any] = {"backend": kind, "size": MOST, "removable": True}
    if kind == "file":
        lun |= {"path": str(path / "disk0")}
    one = lun | {"id": 0, "reservations": str(path / "pr")}
    two = lun | {"id": 1, "physical_block_size": 4096} | ({"path": str(path / "disk1")} if kind == "file" else {})
    listen = f"{'iscsi' if transport == 'tcp' else 'iser'}://127.0.0.1:0"
    return config(portal={"p": {"listen": listen}}, target=({"name": TARGET, "lun": (one, two)},))


@asynccontextmanager
async def arena(
    kind: str, transport: Transport, *, immediate: bool
) -> AsyncIterator[tuple[list[Link], list[Nexus], Twin]]:
    """Two sessions on a target, their twins on a twin of it."""
    with TemporaryDirectory() as name:
        paths = [Path(name) / part for part in ("ours", "twin")]
        for path in paths:
            path.mkdir()
        ours, theirs = (settings_of(kind, transport, path) for path in paths)
        async with serving(ours) as (server, port):
            device = await build_device(theirs.target[0], theirs.limits)
            units = server.registry.targets[TARGET].device.luns
            links: list[Link] = []
            nexuses = []
            try:
                for _ in range(2):
                    before = set(units[0].nexuses)
                    portal = Portal("127.0.0.1", port, transport)
                    links.append(await open_session(portal, TARGET, ConnectOptions(immediate_data=immediate)))
                    (nexus,) = set(units[0].nexuses) - before
                    nexuses.append(device.attach(nexus.initiator, nexus.port))
                    nexus.pending.clear()
                    nexuses[-1].pending.clear()
                yield links, nexuses, Twin(device)
                assert all(not connection.session.tasks for connection in server.connections if connection.session)
                assert len(server.connections) == 2
            finally:
                for link in links:
                    await link.session.close()
                await device.close()


async def play(kind: str, transport: Transport, immediate: bool, played: list[Step]) -> None:
    async with arena(kind, transport, immediate=immediate) as (links, nexuses, twin):
        for step in played:
            cdb = step.cdb
            data = parameters(cdb, step.data, list(twin.device.luns.values()))
            if data and step.excess is not None:
                cdb = with_list(cdb, data)
            edtl = step.length if step.excess is None else max(natural(cdb) + step.excess, 0)
            edtl = min(edtl, MOST) if step.direction != "-" else 0
            data = (data + bytes((step.data >> 24 & 0x0F,)) * edtl)[:edtl]
            field, direction = step.lun << 48, step.direction if edtl else "-"
            expected, moved = await twin.expected(nexuses[step.second], field, cdb, direction, data)
            buffer = bytearray([FILL]) * edtl
            sg = SgList.of(buffer if direction == "i" else data, writable=direction == "i") if edtl else None
            result = await links[step.second].session.execute(
                field, cdb, sg if direction == "i" else None, sg if direction == "o" else None, 20.0
            )
            what = (replace(step, cdb=cdb), cdb.hex(), edtl)
            assert result == expected, what
            if direction == "i" and moved is not None and cdb[:2] != bytes((0x9E, ServiceAction.GET_LBA_STATUS)):
                assert bytes(buffer) == moved + bytes([FILL]) * (edtl - len(moved)), what
        for field in (0, 1 << 48):  # and both devices hold the same
            one, other = bytearray(MOST), bytearray(MOST)
            unit = twin.device.luns[field >> 48]
            await unit.backend.readv(0, [memoryview(other)])
            if not unit.gated:
                for link, nexus in zip(links, nexuses, strict=True):
                    nexus.pending.pop(unit, None)
                    while (await link.session.execute(field, bytes(6))).status:
                        pass
                await links[0].session.execute(field, READ_ALL, SgList.of(one, writable=True))
                assert one == other


READ_ALL = bytes((Opcode.READ_10, 0, 0, 0, 0, 0, 0)) + (MOST // 512).to_bytes(2, "big") + b"\0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transport", ["iser", "tcp"])
@settings(max_examples=25, deadline=None)
@given(immediate=st.booleans(), played=steps)
def test_any_command(kind: str, transport: Transport, immediate: bool, played: list[Step]) -> None:
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("iser")
    logger.addHandler(handler)
    try:
        asyncio.run(play(kind, transport, immediate, played))
    finally:
        logger.removeHandler(handler)
    assert logged == []
