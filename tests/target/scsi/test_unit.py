"""Logical units: identity, limits, errors of the backend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from iser.scsi import cdb
from iser.scsi.capacity import parse_capacity_16
from iser.scsi.sense import decode_sense
from target.backends.base import BackendCap
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import Identity, ReadMedia
from tests.target.scsi.bench import NAME, Bench, codes_of, unit


def test_identities_are_stable_and_apart() -> None:
    assert Identity.derive(NAME, 0) == Identity.derive(NAME, 0)
    all_of_them = [Identity.derive(f"{NAME}{target}", lun) for target in range(20) for lun in range(20)]
    assert len({identity.serial for identity in all_of_them}) == 400
    assert len({identity.naa for identity in all_of_them}) == 400
    assert all(identity.naa >> 60 == 3 for identity in all_of_them)


def test_a_given_serial_decides() -> None:
    one, other = Identity.derive("iqn.2026-11.a:x", 0, "S1"), Identity.derive("iqn.2026-11.b:y", 3, "S1", "DISK")
    assert (one.serial, one.naa) == (other.serial, other.naa) == ("S1", one.naa)
    assert other.product == "DISK"


def test_block_sizes() -> None:
    assert unit().block_size == 512
    large = unit(MemoryBackend(1 << 20, block_size=4096))
    assert (large.block_size, large.blocks, large.max_blocks) == (4096, 256, 128)
    with pytest.raises(UsageError, match="use 512 or 4096"):
        unit(MemoryBackend(1 << 20, block_size=1024))


@pytest.mark.parametrize(
    ("error", "write", "expected", "information"),
    [
        (BackendError("x"), False, (3, 0x11, 0), None),
        (BackendError("x", offset=512 * 77 + 100), False, (3, 0x11, 0), 77),
        (BackendError("x", offset=0), True, (3, 0x0C, 0), 0),
        (BackendError("x", space=True, offset=512), True, (3, 0x0C, 0), 1),
        (BackendError("x", medium=False, offset=512), False, (4, 0x44, 0), None),
        (BackendError("x", medium=False), True, (4, 0x44, 0), None),
    ],
)
@pytest.mark.parametrize("descriptor", [False, True])
def test_backend_errors_become_sense(
    error: BackendError, write: bool, expected: tuple[int, int, int], information: int | None, descriptor: bool
) -> None:
    done = unit(descriptor_sense=descriptor).complete_error(error, write)
    assert codes_of(done) == expected
    assert done.sense[0] & 0x7F == (0x72 if descriptor else 0x70)
    assert decode_sense(done.sense).information == information


def test_an_lba_of_more_than_32_bits_is_told_in_descriptor_format_only() -> None:
    error = BackendError("x", offset=1 << 42)
    sense = [decode_sense(unit(descriptor_sense=form).complete_error(error, False).sense) for form in (False, True)]
    assert [each.information for each in sense] == [None, 1 << 33]


def test_a_thin_unit_says_that_there_is_no_space_left() -> None:
    full = BackendError("x", space=True, offset=512)
    assert codes_of(unit(thin=True).complete_error(full, write=True)) == (7, 0x27, 7)
    assert codes_of(unit(thin=True).complete_error(full, write=False)) == (3, 0x11, 0)


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="is no power of two from its block size on"):
        unit(MemoryBackend(1 << 20, block_size=4096), physical_block=512)
    with pytest.raises(UsageError, match="is no power of two"):
        unit(physical_block=1536)

    class Thick(MemoryBackend):
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self.capabilities = BackendCap.VIEWS

    with pytest.raises(UsageError, match="so it cannot be thin; leave thin out"):
        unit(Thick(), thin=True)


async def test_a_resize_is_told_to_every_nexus(tmp_path: Path) -> None:
    bench = Bench(unit(FileBackend(tmp_path / "disk", 1 << 20)))
    other = bench.attach("other")
    lu = bench.device.luns[0]
    await lu.resize(1 << 20)
    assert not other.pending  # nothing has changed
    await lu.resize(2 << 20)
    for nexus in (bench.nexus, other):
        assert bench.codes(cdb.test_unit_ready(), nexus=nexus) == (6, 0x2A, 9)
    assert parse_capacity_16(bench.data(cdb.read_capacity_16())).size == 2 << 20
    assert isinstance(bench.start(cdb.read_blocks(4095, 1)), ReadMedia)
    os.truncate(tmp_path / "disk", 1 << 20)
    await lu.resize()
    assert lu.blocks == 2048
    with pytest.raises(UsageError, match="read-only"):
        await unit(MemoryBackend(1 << 20, read_only=True)).resize(2 << 20)
    await bench.device.close()
