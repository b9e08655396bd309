"""MODE SENSE(6) and (10)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from iser.scsi import cdb
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, ReadMedia, WriteMedia
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit


def test_all_pages_in_both_forms() -> None:
    bench = Bench()
    six = bench.data(cdb.mode_sense(0x3F, 255))
    ten = bench.data(cdb.mode_sense(0x3F, 4096, ten=True))
    assert (six[0], six[1], six[3]) == (len(six) - 1, 0, 8)
    assert int.from_bytes(ten[:2], "big") == len(ten) - 2
    assert int.from_bytes(ten[6:8], "big") == 8
    assert six[4:] == ten[8:]
    pages = {six[12]: six[13], six[32]: six[33], six[44]: six[45]}
    assert pages == {0x08: 18, 0x0A: 10, 0x1C: 10}
    assert len(six) == 56


def test_device_specific_parameter_has_dpofua_and_write_protect() -> None:
    bench = Bench(unit(), unit(MemoryBackend(SIZE, read_only=True), 1))
    assert bench.data(cdb.mode_sense(0x08))[2] == 0x10
    assert bench.data(cdb.mode_sense(0x08), 1)[2] == 0x90
    assert bench.data(cdb.mode_sense(0x08, ten=True), 1)[3] == 0x90


async def test_write_cache_is_that_of_the_backend(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "disk", SIZE)
    bench = Bench(unit(), unit(backend, 1))
    assert bench.data(cdb.mode_sense(0x08, dbd=True))[4:7].hex() == "081200"
    assert bench.data(cdb.mode_sense(0x08, dbd=True), 1)[4:7].hex() == "081204"
    await bench.device.close()


def test_control_page_has_d_sense() -> None:
    bench = Bench(unit(), unit(lun=1, descriptor_sense=True))
    assert bench.data(cdb.mode_sense(0x0A, dbd=True))[4:].hex() == "0a0a001000000000ffff0000"
    assert bench.data(cdb.mode_sense(0x0A, dbd=True), 1)[6] == 0x04


def test_block_descriptors() -> None:
    bench = Bench(unit(MemoryBackend(SIZE, block_size=4096)))
    assert bench.data(cdb.mode_sense(0x1C))[4:12].hex() == "0000010000001000"
    long_lba = bench.data(bytes.fromhex("5a101c00000000010000"))
    assert long_lba[4] == 1
    assert int.from_bytes(long_lba[6:8], "big") == 16
    assert long_lba[8:24].hex() == "00000000000001000000000000001000"
    assert bench.data(cdb.mode_sense(0x1C, dbd=True))[3] == 0


def test_a_short_descriptor_of_a_huge_unit_is_saturated() -> None:
    large = unit()
    large.blocks = 2**33
    assert Bench(large).data(cdb.mode_sense(0x1C))[4:8].hex() == "ffffffff"


async def test_changeable_values(tmp_path: Path) -> None:
    bench = Bench(unit(), unit(FileBackend(tmp_path / "disk", SIZE), 1))
    for lun, wce in ((0, "00"), (1, "04")):
        data = bench.data(bytes.fromhex("1a087f00ff00"), lun)
        assert data[4:].hex() == "0812" + wce + "00" * 17 + "0a0a040008" + "00" * 7 + "1c0a" + "00" * 10
    await bench.device.close()


def test_default_values_are_the_current_ones() -> None:
    bench = Bench()
    assert bench.data(bytes.fromhex("1a00bf00ff00")) == bench.data(bytes.fromhex("1a003f00ff00"))


@pytest.mark.parametrize(
    ("command", "expected", "field"),
    [
        ("1a00ff00ff00", (5, 0x39, 0), 2),
        ("1a000100ff00", (5, 0x24, 0), 2),
        ("1a000801ff00", (5, 0x24, 0), 3),
        ("1a003f01ff00", (5, 0x24, 0), 3),
    ],
    ids=["saved values", "unknown page", "unknown subpage", "subpage of all pages"],
)
def test_what_is_not_there_is_refused(command: str, expected: tuple[int, int, int], field: int) -> None:
    sense = Bench().sense(bytes.fromhex(command))
    assert (sense.key, sense.asc, sense.ascq) == expected
    assert sense.field == field


@pytest.mark.parametrize("length", [0, 3, 4, 20, 255])
def test_allocation_length_cuts(length: int) -> None:
    bench = Bench()
    assert bench.data(cdb.mode_sense(0x3F, length)) == bench.data(cdb.mode_sense(0x3F, 255))[:length]


def test_all_subpages_of_a_page_are_the_page() -> None:
    bench = Bench()
    assert bench.data(bytes.fromhex("1a003fffff00")) == bench.data(cdb.mode_sense(0x3F, 255))
    assert bench.data(bytes.fromhex("1a0008ffff00")) == bench.data(cdb.mode_sense(0x08, 255))


def select(data: bytes, *, ten: bool = False, flags: int = 0x10) -> bytes:
    return struct.pack(">BB5xHx", 0x55, flags, len(data)) if ten else struct.pack(">BBxxBx", 0x15, flags, len(data))


SWP = bytes.fromhex("0a0a001008000000ffff0000")
D_SENSE = bytes.fromhex("0a0a041000000000ffff0000")
NO_CACHE = bytes.fromhex("0812" + "00" * 18)


async def test_software_write_protect() -> None:
    bench = Bench()
    other = bench.attach("other")
    assert await bench.run(select(bytes(4) + SWP), data_out=bytes(4) + SWP) == GOOD
    assert bench.codes(cdb.write_blocks(0, 1)) == (7, 0x27, 2)
    assert isinstance(bench.start(cdb.read_blocks(0, 1)), ReadMedia)
    assert bench.data(cdb.mode_sense(0x0A, dbd=True))[2:].hex() == "9000" + SWP.hex()
    assert bench.codes(cdb.test_unit_ready(), nexus=other) == (6, 0x2A, 1)
    assert bench.done(cdb.test_unit_ready()) == GOOD
    assert bench.data(bytes.fromhex("1a088a00ff00"))[8] == 0  # the default
    bench.device.lun_reset(bench.device.luns[0])
    bench.nexus.pending.clear()
    assert isinstance(bench.start(cdb.write_blocks(0, 1)), WriteMedia)


async def test_descriptor_sense_can_be_chosen() -> None:
    bench = Bench()
    data = bytes(8) + D_SENSE
    assert await bench.run(select(data, ten=True), data_out=data) == GOOD
    assert bench.done(b"\xc1").sense[0] == 0x72


async def test_the_write_cache_can_be_switched_off(tmp_path: Path) -> None:
    bench = Bench(unit(FileBackend(tmp_path / "disk", SIZE)), unit(lun=1))
    data = bytes(4) + NO_CACHE
    plan = bench.start(cdb.write_blocks(0, 1))
    assert isinstance(plan, WriteMedia)
    assert not plan.fua
    assert await bench.run(select(data), data_out=data) == GOOD
    plan = bench.start(cdb.write_blocks(0, 1))
    assert isinstance(plan, WriteMedia)
    assert plan.fua
    assert bench.data(cdb.mode_sense(0x08, dbd=True))[6] == 0
    cache = bytes(4) + b"\x08\x12\x04" + bytes(17)
    assert await bench.run(select(cache), data_out=cache) == GOOD
    assert bench.data(cdb.mode_sense(0x08, dbd=True))[6] == 4
    assert codes_of(await bench.run(select(cache), 1, data_out=cache)) == (5, 0x26, 0)  # memory has none
    await bench.device.close()


@pytest.mark.parametrize("ten", [False, True])
async def test_what_was_sensed_can_be_selected(ten: bool) -> None:
    bench = Bench()
    for dbd in (False, True):
        data = bytearray(bench.data(cdb.mode_sense(0x3F, 250, ten=ten, dbd=dbd)))
        data[: 2 if ten else 1] = bytes(2 if ten else 1)
        assert await bench.run(select(bytes(data), ten=ten), data_out=bytes(data)) == GOOD


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("000000", (5, 0x1A, 0)),
        ("00000008", (5, 0x1A, 0)),
        ("000000040000", (5, 0x1A, 0)),
        ("0000000400000800", (5, 0x26, 0)),  # a descriptor of 4 bytes
        ("00000008" + "0000000100000200", (5, 0x26, 0)),
        ("00000008" + "0000000000000400", (5, 0x26, 0)),
        ("00000000" + "3f00", (5, 0x26, 0)),
        ("00000000" + "0a", (5, 0x1A, 0)),
        ("00000000" + SWP.hex()[:-2], (5, 0x1A, 0)),
        ("00000000" + "0a0b" + SWP.hex()[4:] + "00", (5, 0x26, 0)),
        ("00000000" + "0a0a201000000000ffff0000", (5, 0x26, 0)),  # TST cannot be changed
        ("00000000" + SWP.hex() + "3f00", (5, 0x26, 0)),
    ],
)
async def test_what_cannot_be_selected_changes_nothing(data: str, expected: tuple[int, int, int]) -> None:
    bench = Bench()
    other = bench.attach("other")
    sent = bytes.fromhex(data)
    assert codes_of(await bench.run(select(sent), data_out=sent)) == expected
    assert not bench.device.luns[0].read_only
    assert not other.pending


async def test_block_descriptors_that_say_what_is_so() -> None:
    bench = Bench()
    for descriptor in ("0000080000000200", "0000000000000000"):
        data = bytes.fromhex("00000008" + descriptor)
        assert await bench.run(select(data), data_out=data) == GOOD
    long = bytes.fromhex("0000000001000010" + "0000000000000800" + "00000000" + "00000200")
    assert await bench.run(select(long, ten=True), data_out=long) == GOOD


def test_flags_and_lengths_of_mode_select() -> None:
    bench = Bench()
    assert bench.done(select(b"")) == GOOD
    for flags in (0x00, 0x11):
        assert bench.sense(select(bytes(4), flags=flags)).field == 1
