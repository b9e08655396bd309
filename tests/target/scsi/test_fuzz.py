"""Every handler with random CDBs, random data and data of the wrong length: an answer that makes sense, always."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iser.scsi.const import Opcode, SenseKey, Status
from iser.scsi.sense import decode_sense
from target.backends.base import Backend
from target.backends.fault import FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import Async, Done, Nexus, ReadMedia, ReservationStore, ScsiTask, WriteMedia
from target.scsi.commands import COMMANDS, DEVICE_COMMANDS, Command
from tests.target.scsi.bench import Bench, unit

SIZE = 64 << 10
ROWS = [*DEVICE_COMMANDS, *COMMANDS]
STATUSES = (Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT)
KEYS = frozenset(SenseKey) - {SenseKey.HARDWARE_ERROR}
#: Each byte of a CDB is mostly a small one, so that what it addresses is there.
BYTES = st.one_of(st.just(0), st.integers(0, 8), st.integers(0, 255))


@st.composite
def cdbs(draw: st.DrawFn) -> bytes:
    """A command that is known, with random bits where its usage data has some, and now and then elsewhere."""
    row: Command = draw(st.sampled_from(ROWS))
    noise = bytes(draw(st.lists(BYTES, min_size=16, max_size=16)))
    usage = row.usage if draw(st.integers(0, 9)) else b"\xff" * len(row.usage)
    body = bytes(mask & byte for mask, byte in zip(usage, noise, strict=False))
    action = row.action or 0
    second = body[1] & ~0x1F | action if row.action is not None else body[1]
    return bytes((row.opcode, second, *body[2:])).ljust(16, b"\0")


def answered(done: Done, task: ScsiTask) -> None:
    assert done.status in STATUSES
    assert len(done.sense) <= 28
    if done.status == Status.CHECK_CONDITION:
        sense = decode_sense(done.sense)
        assert sense.key in KEYS
        assert sense.field is None or sense.field < 16
        assert not done.data_in
    else:
        assert not done.sense
    if task.cdb[0] in (Opcode.INQUIRY, Opcode.MODE_SENSE_6, Opcode.REQUEST_SENSE):
        assert len(done.data_in) <= 65535


async def carry_out(bench: Bench, task: ScsiTask, data: bytes) -> None:
    """As a session does: no more data than the plan asks for, and no less if the initiator has it."""
    plan = bench.device.start(task)
    if isinstance(plan, Async):
        assert 0 <= plan.data_out_length <= max(bench.device.luns[0].options.max_transfer, 65535)
        task.data_out = memoryview(bytearray(data[: plan.data_out_length]))
        answered(await asyncio.wait_for(plan.run(), 5), task)
    elif isinstance(plan, ReadMedia | WriteMedia):
        assert 0 < plan.length <= plan.lu.max_blocks << plan.lu.shift
        assert plan.offset + plan.length <= plan.lu.backend.size
        assert not isinstance(plan, WriteMedia) or not plan.lu.read_only
    elif isinstance(plan, Done):
        answered(plan, task)
    else:
        raise AssertionError(plan)  # every command here is a simple one


@pytest.mark.parametrize("kind", ["memory", "read-only", "file", "filtered"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(cdbs(), st.booleans(), st.integers(0, 1), st.binary(max_size=600), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    )
)
def test_any_commands(kind: str, tmp_path: Path, steps: list[tuple[bytes, bool, int, bytes, int]]) -> None:
    async def scenario() -> None:
        bench = Bench(
            unit(_backend(kind, tmp_path), removable=True, thin=True, reservations=ReservationStore(tmp_path / "pr")),
            unit(MemoryBackend(SIZE), 1, physical_block=4096),
        )
        nexuses: list[Nexus] = [bench.attach(f"iqn.x,i,0x00000000000{number}") for number in range(2)]
        for cdb, second, lun, data, excess in steps:
            nexus = nexuses[second]
            edtl = max(0, len(data) + (0, 0, 7, -7)[excess])
            await carry_out(bench, ScsiTask(lun << 48, cdb, 1, 1, edtl, nexus), data)
        await bench.device.close()

    asyncio.run(scenario())


def _backend(kind: str, path: Path) -> Backend:
    if kind == "file":
        return FileBackend(path / "disk", SIZE)
    memory = MemoryBackend(SIZE, read_only=kind == "read-only")
    return FaultFilter(memory, ()) if kind == "filtered" else memory


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_any_bytes_at_all(cdb: bytes, attr: int, edtl: int) -> None:
    bench = Bench(unit(MemoryBackend(SIZE)))
    plan = bench.device.start(ScsiTask(0, cdb, 1, attr, edtl, bench.nexus))
    if isinstance(plan, Done):
        answered(plan, ScsiTask(0, cdb.ljust(16), 1, attr, edtl, bench.nexus))
