"""A device with some of another's LUNs under numbers of its own."""

from __future__ import annotations

from iser.scsi.lun import encode_lun, parse_lun_list
from target.backends.memory import MemoryBackend
from target.mapped import MappedDevice
from target.scsi import Done, Identity, LogicalUnit, ScsiTask, TargetDevice

NAME = "iqn.2026-11.test:disk"


def whole() -> TargetDevice:
    return TargetDevice(
        NAME, {number: LogicalUnit(MemoryBackend(4096), Identity.derive(NAME, number)) for number in range(3)}
    )


def test_units_are_the_same_under_other_numbers() -> None:
    device = whole()
    view = MappedDevice(device, {0: 2, 7: 1})
    assert view.unit(encode_lun(0)) is device.luns[2]
    assert view.unit(encode_lun(7)) is device.luns[1]
    assert view.unit(encode_lun(1)) is None


def test_numbers_that_are_not_there_are_passed_over() -> None:
    assert list(MappedDevice(whole(), {0: 2, 1: 99}).luns) == [0]


def test_report_luns_tells_the_numbers_shown() -> None:
    view = MappedDevice(whole(), {0: 2, 7: 1})
    nexus = view.attach("a")
    cdb = bytes((0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
    done = view.start(ScsiTask(0, cdb, 1, 0, 256, nexus))
    assert isinstance(done, Done)
    assert list(parse_lun_list(done.data_in)) == [0, 7]


def test_the_units_stay_neighbours_of_all_and_a_reset_reaches_every_view() -> None:
    device = whole()
    view = MappedDevice(device, {0: 2})
    one, other = device.attach("one"), view.attach("other")
    unit = device.luns[2]
    assert list(unit.neighbours()) == list(device.luns.values())
    for nexus in (one, other):
        while nexus.take_attention(unit):
            pass
    device.lun_reset(unit)
    assert one.take_attention(unit) is not None
    assert other.take_attention(unit) is not None
