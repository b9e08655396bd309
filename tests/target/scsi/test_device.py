"""The target device: which unit, which answer without one, and unit attentions between initiators."""

from __future__ import annotations

import pytest

from iser.errors import BackendError, UsageError
from iser.scsi import cdb
from iser.scsi.codes import POWER_ON, REPORTED_LUNS_CHANGED
from iser.scsi.const import Opcode
from iser.scsi.inquiry import parse_standard
from iser.scsi.lun import REPORT_LUNS_WLUN, encode_lun, lun_forms, parse_lun_list
from iser.scsi.sense import decode_sense
from target.backends.fault import FaultFilter
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Done, ScsiTask, TargetDevice
from target.scsi.device import MAX_LUNS
from tests.target.scsi.bench import NAME, SIZE, Bench, codes_of, unit


class Breaking(FaultFilter):
    """A backend that cannot be closed."""

    __slots__ = ()

    async def close(self) -> None:
        await super().close()
        raise BackendError("cannot flush")


def test_units_are_found_by_every_form_of_their_lun() -> None:
    units = [unit(lun=lun) for lun in range(3)]
    bench = Bench(*units)
    for lun, lu in enumerate(units):
        assert all(bench.device.unit(field) is lu for field in lun_forms(lun))
    assert bench.device.unit(encode_lun(3)) is None
    assert bench.device.unit(1) is None  # a byte that no one-level LUN has


@pytest.mark.parametrize("field", [encode_lun(7), 0x8000 << 48, REPORT_LUNS_WLUN, 1], ids=hex)
def test_a_lun_that_is_not_there(field: int) -> None:
    bench = Bench()
    plan = bench.start_field(cdb.inquiry(96), field)
    assert isinstance(plan, Done)
    inquiry = parse_standard(plan.data_in)
    assert (plan.status, inquiry.qualifier, inquiry.device_type) == (0, 3, 0x1F)
    sense = bench.start_field(cdb.request_sense(252), field)
    assert isinstance(sense, Done)
    assert decode_sense(sense.data_in)[:3] == (5, 0x25, 0)
    for command in (
        cdb.test_unit_ready(),
        cdb.read_blocks(0, 1),
        cdb.inquiry(96, 0x80),
        b"\xc1",
        cdb.read_capacity_16(),
    ):
        answer = bench.start_field(command, field)
        assert isinstance(answer, Done)
        assert codes_of(answer) == (5, 0x25, 0)


def test_report_luns() -> None:
    device = TargetDevice(NAME, {300: unit(lun=300), 0: unit(), 5: unit(lun=5)})
    bench = Bench()
    bench.device = device
    data = bench.data(cdb.report_luns())
    assert list(parse_lun_list(data)) == [0, 5, 300]
    assert list(parse_lun_list(bench.data(cdb.report_luns(4096, 2)))) == [0, 5, 300]
    assert list(parse_lun_list(bench.data(cdb.report_luns(4096, 1)))) == []
    assert bench.data(cdb.report_luns(20)) == data[:20]
    sense = bench.sense(cdb.report_luns(4096, 3))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x24, 0, 2)


def test_report_luns_without_lun_0_and_to_the_well_known_unit() -> None:
    bench = Bench()
    bench.device = TargetDevice(NAME, {4: unit(lun=4)})
    for field in (0, REPORT_LUNS_WLUN):
        plan = bench.start_field(cdb.report_luns(), field)
        assert isinstance(plan, Done)
        assert list(parse_lun_list(plan.data_in)) == [4]
    refused = bench.start_field(cdb.report_luns(), encode_lun(9))
    assert isinstance(refused, Done)
    assert codes_of(refused) == (5, 0x25, 0)


def test_limits_of_a_target() -> None:
    lu = unit()
    with pytest.raises(UsageError, match="more than 1024"):
        TargetDevice(NAME, dict.fromkeys(range(MAX_LUNS + 1), lu))
    with pytest.raises(UsageError, match="cannot be addressed"):
        TargetDevice(NAME, {20000: lu})


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(Opcode)))
def test_unknown_operation_codes(opcode: int) -> None:
    sense = Bench().sense(bytes((opcode,)))
    assert (sense.key, sense.asc, sense.ascq, sense.field) == (5, 0x20, 0, 0)


def test_a_cdb_that_is_too_short() -> None:
    bench = Bench()
    for opcode in Opcode:
        for length in range(cdb.cdb_length(opcode)):
            short = ScsiTask(0, (bytes((opcode,)) + bytes(16))[:length], 1, 1, 0, bench.nexus)
            plan = bench.device.start(short)
            assert isinstance(plan, Done)
            assert codes_of(plan) == ((5, 0x24, 0) if length else (5, 0x20, 0))
            missing = ScsiTask(encode_lun(9), short.cdb, 1, 1, 0, bench.nexus)
            absent = bench.device.start(missing)
            assert isinstance(absent, Done)
            assert codes_of(absent) == (5, 0x25, 0)


def test_an_extended_cdb_is_read_by_its_own_length() -> None:
    assert Bench().start(cdb.read_capacity_10() + bytes(40)) != GOOD
    assert Bench().codes(b"\x7f" + bytes(31)) == (5, 0x20, 0)


def test_power_on_stops_the_first_command_to_each_unit() -> None:
    bench = Bench(unit(), unit(lun=1))
    nexus = bench.device.attach("new")
    for passing in (cdb.inquiry(), cdb.report_luns()):
        assert bench.done(passing, nexus=nexus).status == 0
    assert bench.codes(cdb.read_blocks(0, 1), nexus=nexus) == (6, 0x29, 0)
    assert bench.done(cdb.test_unit_ready(), nexus=nexus) == GOOD
    assert bench.codes(b"\xc1", 1, nexus=nexus) == (6, 0x29, 0)  # before the code is looked at
    assert bench.codes(b"\xc1", 1, nexus=nexus) == (5, 0x20, 0)


@pytest.mark.parametrize(("descriptor", "response"), [(False, 0x70), (True, 0x72)])
def test_request_sense_takes_the_unit_attention(descriptor: bool, response: int) -> None:
    bench = Bench()
    nexus = bench.device.attach("new")
    first = bench.done(cdb.request_sense(252, descriptor=descriptor), nexus=nexus)
    assert (first.status, first.data_in[0]) == (0, response)
    assert decode_sense(first.data_in)[:3] == (6, 0x29, 0)
    again = bench.done(cdb.request_sense(252, descriptor=descriptor), nexus=nexus)
    assert decode_sense(again.data_in)[:3] == (0, 0, 0)
    assert len(bench.done(cdb.request_sense(4), nexus=nexus).data_in) == 4


def test_a_lun_reset_is_told_to_all() -> None:
    bench = Bench(unit(), unit(lun=1))
    other = bench.attach("other")
    lu = bench.device.luns[0]
    bench.device.lun_reset(lu)
    assert bench.codes(cdb.test_unit_ready()) == (6, 0x29, 3)
    assert bench.done(cdb.test_unit_ready()) == GOOD
    assert bench.done(cdb.test_unit_ready(), 1, nexus=other) == GOOD
    assert bench.codes(cdb.test_unit_ready(), nexus=other) == (6, 0x29, 3)
    assert bench.done(cdb.test_unit_ready(), nexus=other) == GOOD


def test_a_target_reset_and_cleared_commands() -> None:
    bench = Bench(unit(), unit(lun=1))
    other = bench.attach("other")
    bench.device.target_reset()
    for nexus in (bench.nexus, other):
        for lun in (0, 1):
            assert bench.codes(cdb.test_unit_ready(), lun, nexus=nexus) == (6, 0x29, 3)
    bench.device.commands_cleared(bench.device.luns[1], [other])
    assert bench.done(cdb.test_unit_ready(), 1) == GOOD
    assert bench.codes(cdb.test_unit_ready(), 1, nexus=other) == (6, 0x2F, 0)


def test_a_lost_nexus_is_forgotten() -> None:
    bench = Bench()
    gone = bench.attach("gone")
    bench.device.detach(gone)
    bench.device.detach(gone)
    bench.device.target_reset()
    assert not gone.pending


def test_descriptor_sense_everywhere() -> None:
    bench = Bench(unit(descriptor_sense=True))
    for command in (b"\xc1", cdb.read_blocks(9999, 1), cdb.report_luns(64, 7), cdb.inquiry(64, 0x99)):
        assert bench.done(command).sense[0] == 0x72


async def test_close_closes_all_and_tells_the_first_failure() -> None:
    broken = Breaking(MemoryBackend(SIZE), ())
    whole = MemoryBackend(SIZE)
    bench = Bench(unit(broken), unit(whole, 1))
    with pytest.raises(BackendError, match="cannot flush"):
        await bench.device.close()
    with pytest.raises(ValueError, match="released"):
        whole.views(0, 512)


def test_a_nexus_that_moves_is_told_of_the_difference_and_forgotten_where_it_was() -> None:
    stays, goes, comes = (unit(lun=lun) for lun in range(3))
    old = TargetDevice(NAME, {0: stays, 1: goes})
    nexus = old.attach("i")
    nexus.pending.clear()
    for lu in (goes, stays):
        lu.reserved_by = nexus
    nexus.raise_attention(goes, POWER_ON)
    new = TargetDevice(NAME, {0: stays, 2: comes})
    new.take_over(nexus, old)
    assert nexus.pending == {stays: [REPORTED_LUNS_CHANGED], comes: [POWER_ON, REPORTED_LUNS_CHANGED]}
    assert [lu.reserved_by for lu in (goes, stays)] == [None, nexus]
    assert (nexus in goes.nexuses, nexus in stays.nexuses, nexus in comes.nexuses) == (False, True, True)


def test_a_nexus_that_moves_to_the_same_is_told_nothing() -> None:
    only = unit()
    old = TargetDevice(NAME, {0: only})
    nexus = old.attach("i")
    nexus.pending.clear()
    TargetDevice(NAME, {0: only}).take_over(nexus, old)
    assert not nexus.pending
