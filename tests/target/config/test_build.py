"""From a configuration to a device that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from iser.scsi import cdb
from iser.scsi.inquiry import parse_serial, parse_standard
from target.backends.fault import FaultFilter
from target.backends.file import FileBackend
from target.backends.memory import MemoryBackend
from target.config import LimitsConfig, LunConfig, config_from_flags, load
from target.config.build import build_device, build_unit, open_backend
from target.scsi import Done, ScsiTask, TargetDevice

CONFIG = """\
[portal.main]
listen = "iser://127.0.0.1:0"
[limits]
max_transfer = "64K"
[[target]]
name = "iqn.2026-11.demo:disk"
[[target.lun]]
id = 0
backend = "memory"
size = "1M"
[[target.lun]]
id = 3
backend = "file"
path = "disk.img"
size = "2M"
block_size = 4096
serial = "S3"
product = "FILE DISK"
descriptor_sense = true
faults = [{ on = "write", nth = 2, action = "full" }]
"""


def answer(device: TargetDevice, command: bytes, lun: int) -> bytes:
    plan = device.start(ScsiTask(lun << 48, command.ljust(16, b"\0"), 1, 1, 0, device.attach("i")))
    assert isinstance(plan, Done)
    return plan.data_in


async def test_units_are_as_configured(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(CONFIG)
    config = load(file)
    device = await build_device(config.target[0], config.limits)
    assert list(device.luns) == [0, 3]
    memory, disk = device.luns.values()
    assert isinstance(memory.backend, MemoryBackend)
    assert isinstance(disk.backend, FaultFilter)
    assert isinstance(disk.backend.inner, FileBackend)
    assert (memory.max_blocks, disk.max_blocks, disk.block_size, disk.blocks) == (128, 16, 4096, 512)
    assert disk.descriptor_sense
    assert parse_standard(answer(device, cdb.inquiry(), 3)).product == "FILE DISK"
    assert parse_serial(answer(device, cdb.inquiry(255, 0x80), 3)) == "S3"
    await disk.backend.writev(0, [memoryview(b"x")], fua=False)
    with pytest.raises(BackendError, match="no space left"):
        await disk.backend.writev(0, [memoryview(b"x")], fua=False)
    await device.close()


async def test_a_unit_that_fails_to_open_leaves_none_open(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(CONFIG + '[[target.lun]]\nid = 4\nbackend = "file"\npath = "gone.img"\nsize = "1M"\n')
    config = load(file)
    (tmp_path / "gone.img").mkdir()
    with pytest.raises(BackendError, match="Is a directory"):
        await build_device(config.target[0], config.limits)
    again = FileBackend(tmp_path / "disk.img")  # its lock is free again
    await again.close()


async def test_flags_build_too() -> None:
    config = config_from_flags(name="iqn.2026-11.demo:disk", listen=["iser://127.0.0.1:0"], memory="1M")
    device = await build_device(config.target[0], LimitsConfig())
    assert device.name == "iqn.2026-11.demo:disk"
    await device.close()


@pytest.mark.parametrize("backend", ["memory", "file", "block", "nbd", "rbd"])
def test_a_lun_made_by_hand_still_needs_its_keys(backend: str) -> None:
    with pytest.raises(UsageError, match=f"a {backend} LUN needs one"):
        open_backend(LunConfig.model_validate({"id": 0, "backend": backend}))


async def test_kinds_of_luns(tmp_path: Path) -> None:
    common = {"backend": "memory", "size": 1 << 20}
    plain = await build_unit("iqn.2026-11.demo:disk", LunConfig.model_validate(common | {"id": 0}), LimitsConfig())
    assert (plain.thin, plain.options.removable, plain.physical_exponent) == (True, False, 0)
    assert plain.options.reservations is None
    other = common | {"id": 1, "thin": False, "removable": True, "physical_block_size": 4096, "read_only": True}
    odd = await build_unit("iqn.2026-11.demo:disk", LunConfig.model_validate(other), LimitsConfig())
    assert (odd.thin, odd.options.removable, odd.physical_exponent, odd.read_only) == (False, True, 3, True)
    for unit in (plain, odd):
        await unit.close()


async def test_a_file_keeps_its_reservations_beside_it(tmp_path: Path) -> None:
    raw = {"id": 0, "backend": "file", "size": 1 << 20, "path": "disk.img"}
    lun = LunConfig.model_validate(raw, context=tmp_path)
    unit = await build_unit("iqn.2026-11.demo:disk", lun, LimitsConfig())
    assert unit.options.reservations is not None
    assert unit.options.reservations.path == tmp_path / "disk.img.reservations"
    await unit.close()
    (tmp_path / "disk.img.reservations").write_text("nonsense")
    with pytest.raises(BackendError, match="is no file of reservations"):
        await build_unit("iqn.2026-11.demo:disk", lun, LimitsConfig())
    (tmp_path / "disk.img.reservations").unlink()
    await (await build_unit("iqn.2026-11.demo:disk", lun, LimitsConfig())).close()  # the file was not left locked


def test_direct_access_needs_whole_sectors(tmp_path: Path) -> None:
    raw = {"id": 0, "backend": "block", "size": 1 << 20, "path": "disk.img", "block_size": 4096, "threads": 1}
    lun = LunConfig.model_validate(raw | {"block_size": 512}, context=tmp_path)
    with pytest.raises(UsageError, match=r"set block_size = 4096|use backend = 'file'"):
        open_backend(lun)
