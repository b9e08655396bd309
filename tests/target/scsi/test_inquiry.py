"""INQUIRY, read with the initiator's own parsers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from iser.scsi import cdb
from iser.scsi.inquiry import (
    parse_block_limits,
    parse_designators,
    parse_rotation_rate,
    parse_serial,
    parse_standard,
    parse_supported_pages,
    parse_thin,
)
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.scsi import Done, Identity, LogicalUnit
from tests.target.scsi.bench import NAME, Bench, unit


def test_standard_data() -> None:
    data = Bench().data(cdb.inquiry(255))
    assert parse_standard(data) == (0, 0, False, 6, "ISER-PY", "VIRTUAL DISK", "0100")
    assert (len(data), data[4]) == (96, 91)
    assert data[3] & 0x0F == 2
    assert data[6] & 0x10 == 0  # one port
    assert data[7] & 0x02  # command queuing
    assert data[58:66].hex() == "00a0046004c00960"


@pytest.mark.parametrize("length", [0, 5, 36, 95, 96, 65535])
def test_allocation_length_cuts_and_never_pads(length: int) -> None:
    assert len(Bench().data(cdb.inquiry(length))) == min(length, 96)


def test_texts_are_cut_and_made_ascii() -> None:
    identity = Identity("s" * 40, 3 << 60, NAME, vendor="vendör too long", product="x" * 20, revision="1")
    data = Bench(LogicalUnit(MemoryBackend(4096), identity)).data(cdb.inquiry(255))
    assert data[8:36] == b"vend?r t" + b"x" * 16 + b"1   "


def test_supported_pages_are_those_that_answer() -> None:
    bench = Bench()
    pages = parse_supported_pages(bench.data(cdb.inquiry(255, 0)))
    assert pages == (0x00, 0x80, 0x83, 0x86, 0x88, 0xB0, 0xB1, 0xB2)
    for page in range(256):
        if page in pages:
            data = bench.data(cdb.inquiry(4096, page))
            assert (data[0], data[1], int.from_bytes(data[2:4], "big")) == (0, page, len(data) - 4)
        else:
            sense = bench.sense(cdb.inquiry(255, page))
            assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, 2)


def test_a_page_code_without_evpd_is_refused() -> None:
    assert Bench().codes(bytes.fromhex("12008000ff00")) == (5, 0x24, 0)


def test_serial_and_designators() -> None:
    lu = unit()
    bench = Bench(lu)
    assert parse_serial(bench.data(cdb.inquiry(255, 0x80))) == lu.identity.serial
    naa, t10, port_number, group, port, device = parse_designators(bench.data(cdb.inquiry(255, 0x83)))
    assert (naa.association, naa.kind, naa.text) == (0, 3, f"{lu.identity.naa:016x}")
    assert (t10.association, t10.kind, t10.text) == (0, 1, "ISER-PY " + lu.identity.serial)
    assert (port_number.association, port_number.kind, port_number.text) == (1, 4, "00000001")
    assert (group.association, group.kind, group.text) == (1, 5, "00000001")
    assert (port.association, port.kind, port.text) == (1, 8, f"{NAME},t,0x0001")
    assert (device.association, device.kind, device.text) == (2, 8, NAME)
    assert all(len(name.value) % 4 == 0 and name.value.endswith(b"\0") for name in (port, device))


def test_each_target_port_is_itself_and_all_are_listed() -> None:
    bench = Bench()
    bench.set_ports(1, 7, 0xFFFF)
    other = bench.attach("other", 7)
    assert bench.data(cdb.inquiry(255))[6] & 0x10  # MULTIP
    listed = bench.data(cdb.inquiry(4096, 0x88))
    for nexus in (bench.nexus, other):
        plan = bench.start(cdb.inquiry(4096, 0x83), nexus=nexus)
        assert isinstance(plan, Done)
        _, _, number, group, port, device = parse_designators(plan.data_in)
        assert (number.text, group.text) == (f"{nexus.port:08x}", "00000001")
        assert (port.text, device.text) == (f"{NAME},t,0x{nexus.port:04x}", NAME)
    found, at = [], 4
    while at < len(listed):
        number_of_port, initiator, length = struct.unpack_from(">2xH2xH2xH", listed, at)
        assert initiator == 0
        (name,) = parse_designators(struct.pack(">BBH", 0, 0x83, length) + listed[at + 12 : at + 12 + length])
        found.append((number_of_port, name.association, name.text))
        at += 12 + length
    assert found == [(port, 1, f"{NAME},t,0x{port:04x}") for port in (1, 7, 0xFFFF)]


def test_initiators_are_told_of_other_ports_once() -> None:
    bench = Bench()
    bench.device.set_ports((1,))
    assert bench.done(cdb.test_unit_ready()).status == 0
    bench.device.set_ports((1, 2))
    assert bench.codes(cdb.test_unit_ready()) == (6, 0x3F, 3)
    bench.device.set_ports((1, 2))
    assert bench.done(cdb.test_unit_ready()).status == 0


def test_the_longest_name_still_fits_its_length_byte() -> None:
    name = "iqn.2026-11.demo:" + "x" * 206
    lu = LogicalUnit(MemoryBackend(4096), Identity.derive(name, 0))
    assert len(name) == 223
    assert parse_designators(Bench(lu).data(cdb.inquiry(4096, 0x83)))[-1].text == name


def test_limits_and_characteristics() -> None:
    bench = Bench(unit(), unit(MemoryBackend(1 << 20, block_size=4096), 1), unit(lun=2, max_transfer=65536))
    assert parse_block_limits(bench.data(cdb.inquiry(255, 0xB0))) == (8, 1024, 256)
    assert parse_block_limits(bench.data(cdb.inquiry(255, 0xB0), 1)) == (1, 128, 32)
    assert parse_block_limits(bench.data(cdb.inquiry(255, 0xB0), 2)) == (8, 128, 128)
    assert len(bench.data(cdb.inquiry(255, 0xB0))) == 64
    assert parse_rotation_rate(bench.data(cdb.inquiry(255, 0xB1))) == 1
    assert len(bench.data(cdb.inquiry(255, 0xB1))) == 64
    assert not parse_thin(bench.data(cdb.inquiry(255, 0xB2)))


def test_kinds_of_disks() -> None:
    bench = Bench(unit(removable=True), unit(lun=1, thin=True, physical_block=4096))
    assert bench.data(cdb.inquiry(96))[1] == 0x80
    plain, thin = (bench.data(cdb.inquiry(255, 0xB0), lun) for lun in (0, 1))
    assert plain[:6].hex() == "00b0003c00ff"
    assert plain[20:36] == bytes(16)  # nothing can be unmapped
    assert thin[4] == 1  # WSNZ
    assert struct.unpack_from(">IIII", thin, 20) == (1 << 20, 256, 8, 1 << 31)
    assert struct.unpack_from(">QIII", thin, 36) == (0xFFFF, 1024, 8, 8)
    assert parse_thin(bench.data(cdb.inquiry(255, 0xB2), 1))
    assert bench.data(cdb.inquiry(255, 0xB2), 1)[5:7].hex() == "e402"
    assert [bench.data(cdb.inquiry(255, 0xB1), lun)[7] for lun in (0, 1)] == [0, 0x40]  # WABEREQ


async def test_what_depends_on_the_backend(tmp_path: Path) -> None:
    bench = Bench(unit(), unit(FileBackend(tmp_path / "disk", 1 << 20), 1))
    assert [bench.data(cdb.inquiry(255, 0x86), lun)[6] for lun in (0, 1)] == [0, 1]  # a volatile cache
    assert [any(bench.data(cdb.inquiry(255, 0xB0), lun)[44:56]) for lun in (0, 1)] == [True, False]  # atomic writes
    await bench.device.close()
