from __future__ import annotations

import initiator
from initiator import Url
from initiator.report import describe
from initiator.url import Portal
from iser.pdu import ScsiCommand
from tests.initiator.test_lun import Unit, scripted
from tests.target.peer import TARGET, serving


async def test_what_a_lun_is() -> None:
    async with serving() as (_, port), await initiator.connect(Url(Portal("127.0.0.1", port), TARGET)) as lun:
        lines = dict(await describe(lun))
    assert lines["portal"] == f"127.0.0.1:{port}"
    assert lines["type"] == "disk"
    assert lines["capacity"] == "2048 blocks of 512 bytes, 1 MiB"
    assert lines["remote invalidate"] == "on"
    assert lines["target name"] == TARGET
    assert {"serial", "identity", "transfer blocks", "medium", "provisioning", "initial r2t"} <= lines.keys()


async def test_a_unit_without_pages_or_blocks_or_sense_in_its_answers() -> None:
    unit = Unit(INQUIRY=b"\x01\0\x06\x02\x1f\0\0\0VENDOR  TAPE            0001")
    unit.answers[0x180] = b"nonsense"
    async with scripted(unit) as lun:
        lines = dict(await describe(lun))
    assert lines["type"] == "tape"
    assert lines["product"] == "VENDOR TAPE 0001"
    assert not {"capacity", "serial", "identity"} & lines.keys()
    assert all(isinstance(command, ScsiCommand) for command in unit.seen)
