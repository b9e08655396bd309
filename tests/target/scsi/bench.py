"""A device server on the bench: CDBs in, answers out, no network."""

from __future__ import annotations

from iser.scsi.lun import encode_lun
from iser.scsi.sense import Sense, decode_sense
from target.backends.base import Backend
from target.backends.memory import MemoryBackend
from target.scsi import (
    Async,
    Done,
    Identity,
    LogicalUnit,
    Nexus,
    Plan,
    ReadMedia,
    ReservationStore,
    ScsiTask,
    TargetDevice,
    UnitOptions,
    WriteMedia,
)

__all__ = ["NAME", "SIZE", "Bench", "codes_of", "unit"]

NAME = "iqn.2026-11.demo:disk"
SIZE = 1 << 20


def unit(
    backend: Backend | None = None,
    lun: int = 0,
    *,
    descriptor_sense: bool = False,
    max_transfer: int = 1 << 19,
    removable: bool = False,
    thin: bool = False,
    physical_block: int = 0,
    reservations: ReservationStore | None = None,
) -> LogicalUnit:
    """A logical unit on 1 MiB of memory, or on ``backend``."""
    options = UnitOptions(max_transfer, descriptor_sense, removable, thin, physical_block, reservations)
    return LogicalUnit(backend if backend is not None else MemoryBackend(SIZE), Identity.derive(NAME, lun), options)


def codes_of(done: Done) -> tuple[int, int, int]:
    """(key, ASC, ASCQ) of a CHECK CONDITION."""
    assert done.status == 0x02
    assert done.data_in == b""
    sense = decode_sense(done.sense)
    return sense.key, sense.asc, sense.ascq


class Bench:
    """One target with one nexus whose POWER ON has been taken."""

    def __init__(self, *units: LogicalUnit) -> None:
        self.device = TargetDevice(NAME, dict(enumerate(units or (unit(),))))
        self.nexus = self.attach("initiator")

    def attach(self, name: str, port: int = 1) -> Nexus:
        nexus = self.device.attach(name, port)
        nexus.pending.clear()
        return nexus

    def set_ports(self, *ports: int) -> None:
        """The target ports; what a nexus is told of that is taken."""
        self.device.set_ports(ports)
        for lu in self.device.luns.values():
            for nexus in lu.nexuses:
                nexus.pending.clear()

    def start(self, cdb: bytes, lun: int = 0, *, nexus: Nexus | None = None, data_out: bytes = b"") -> Plan:
        """The plan for ``cdb``, which is padded as an initiator pads it."""
        return self.start_field(cdb, encode_lun(lun), nexus=nexus, data_out=data_out)

    def start_field(self, cdb: bytes, field: int, *, nexus: Nexus | None = None, data_out: bytes = b"") -> Plan:
        task = ScsiTask(field, cdb.ljust(16, b"\0"), 1, 1, len(data_out), nexus or self.nexus, data_out)
        return self.device.start(task)

    def done(self, cdb: bytes, lun: int = 0, *, nexus: Nexus | None = None) -> Done:
        """The answer to a command that needs no media."""
        plan = self.start(cdb, lun, nexus=nexus)
        assert isinstance(plan, Done)
        return plan

    def data(self, cdb: bytes, lun: int = 0) -> bytes:
        """The data of a control command that ends in GOOD."""
        done = self.done(cdb, lun)
        assert (done.status, done.sense) == (0, b"")
        return done.data_in

    def codes(self, cdb: bytes, lun: int = 0, *, nexus: Nexus | None = None) -> tuple[int, int, int]:
        """(key, ASC, ASCQ) of a command that ends in CHECK CONDITION at once."""
        return codes_of(self.done(cdb, lun, nexus=nexus))

    def sense(self, cdb: bytes, lun: int = 0) -> Sense:
        """The sense of a command that ends in CHECK CONDITION at once."""
        return decode_sense(self.done(cdb, lun).sense)

    async def run(self, cdb: bytes, lun: int = 0, *, nexus: Nexus | None = None, data_out: bytes = b"") -> Done:
        """Carry out any plan, as a session would: the answer, with what was read as its data."""
        plan = self.start(cdb, lun, nexus=nexus, data_out=data_out)
        if isinstance(plan, Done):
            return plan
        if isinstance(plan, Async):
            assert plan.data_out_length == len(data_out)
            return await plan.run()
        if isinstance(plan, ReadMedia):
            buffer = memoryview(bytearray(plan.length))
            await plan.lu.backend.readv(plan.offset, [buffer])
            return Done(data_in=bytes(buffer))
        assert isinstance(plan, WriteMedia)
        assert plan.length == len(data_out)
        await plan.lu.backend.writev(plan.offset, [memoryview(data_out)], plan.fua)
        return Done()
