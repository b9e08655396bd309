"""Kill -9 of the target during writes: what it had acknowledged as durable is there when it comes back.

SIGKILL takes the process and all that it holds in memory, not the page cache of the system below.  So this shows that
no acknowledgement runs ahead of the write, not that a flush reaches the medium.
"""

from __future__ import annotations

import asyncio
import random
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

import initiator
from iser.errors import IserError
from tests.target.peer import TARGET

BLOCK: Final = 512
WRITERS: Final = 6  # half of them write with FUA, the others flush
REGION: Final = 128  # blocks that one writer has for itself
BLOCKS: Final = WRITERS * REGION
ROUNDS: Final = 3
DURABLE: Final = 40  # acknowledgements that make something durable, from one kill to the next
STAMP: Final = struct.Struct(">QQ")  # block and sequence number; a block is full of it

CONFIG: Final = """
[portal.main]
listen = "{scheme}://127.0.0.1:0"

[[target]]
name = "{target}"

[[target.lun]]
id = 0
backend = "file"
path = "{path}"
size = {size}
"""


def stamped(lba: int, blocks: int, sequence: int) -> bytes:
    """The contents of ``blocks`` blocks that were written by write number ``sequence``."""
    return b"".join(STAMP.pack(number, sequence) * (BLOCK // STAMP.size) for number in range(lba, lba + blocks))


class Ledger:
    """For each block: the number of the last write sent to it, and of the last one acknowledged as durable."""

    def __init__(self) -> None:
        self.sequence = 0
        self.sent = [0] * BLOCKS
        self.durable = [0] * BLOCKS
        self.acknowledged = 0
        self.enough = asyncio.Event()

    def send(self, lba: int, blocks: int) -> bytes:
        """The data of the next write."""
        self.sequence += 1
        self.sent[lba : lba + blocks] = [self.sequence] * blocks
        return stamped(lba, blocks, self.sequence)

    def keep(self, start: int, sequences: list[int]) -> None:
        """What stood in the blocks from ``start`` on when the target said that it is safe."""
        self.durable[start : start + len(sequences)] = sequences
        self.acknowledged += 1
        if self.acknowledged % DURABLE == 0:
            self.enough.set()

    def faults(self, disk: bytes) -> list[str]:
        """One line for each block of ``disk`` that holds neither its last durable write nor a later one, whole."""
        lines = []
        for lba in range(BLOCKS):
            block = disk[lba * BLOCK : (lba + 1) * BLOCK]
            number, sequence = STAMP.unpack_from(block)
            if block != (stamped(lba, 1, sequence) if sequence else bytes(BLOCK)):
                lines.append(f"block {lba} is torn or is block {number}")
            elif not self.durable[lba] <= sequence <= self.sent[lba]:
                lines.append(f"block {lba} has {sequence}, of {self.durable[lba]} (safe) to {self.sent[lba]} (sent)")
        return lines

    def resume(self, disk: bytes) -> None:
        """Go on from what ``disk`` holds: what is not there and was not acknowledged will not come."""
        self.sent = [STAMP.unpack_from(disk, lba * BLOCK)[1] for lba in range(BLOCKS)]


@asynccontextmanager
async def target(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A target process, and the URL of its LUN."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "target.cli", "serve", "--log", "warning", str(config)), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert line.startswith("listening "), line
        yield process, f"{line.split()[1]}/{TARGET}/0"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def write_for_ever(lun: initiator.Lun, ledger: Ledger, number: int, chance: random.Random) -> None:
    """Write to the region of writer ``number`` until the target is gone, with FUA or with a flush now and then."""
    fua, start = number % 2 == 0, number * REGION
    with suppress(IserError):
        while True:
            blocks = chance.randint(1, 16)
            lba = start + chance.randint(0, REGION - blocks)
            await lun.write(lba, ledger.send(lba, blocks), fua=fua)
            if fua:
                ledger.keep(lba, ledger.sent[lba : lba + blocks])
            elif chance.random() < 0.3:
                before = ledger.sent[start : start + REGION]  # all of it acknowledged, but perhaps not safe yet
                await lun.flush()
                ledger.keep(start, before)


async def write_until_killed(config: Path, ledger: Ledger, chance: random.Random) -> None:
    """Start the target, let all writers go, and kill it while every one of them waits for a command."""
    async with target(config) as (process, url):
        lun = await initiator.connect(url)
        writers = [asyncio.create_task(write_for_ever(lun, ledger, number, chance)) for number in range(WRITERS)]
        ledger.enough.clear()
        async with asyncio.timeout(20):
            await ledger.enough.wait()
        assert not any(writer.done() for writer in writers)
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            await asyncio.gather(*writers)
        with suppress(IserError):
            await lun.close()
        assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("scheme", ["iser", "iscsi"])
async def test_what_was_acknowledged_as_durable_survives_kill_9(scheme: str, tmp_path: Path) -> None:
    config = tmp_path / "target.toml"
    path = tmp_path / "disk.img"
    config.write_text(CONFIG.format(scheme=scheme, target=TARGET, path=path, size=BLOCKS * BLOCK))
    ledger, chance = Ledger(), random.Random(scheme)
    for _ in range(ROUNDS):
        await write_until_killed(config, ledger, chance)
        async with target(config) as (_, url), await initiator.connect(url) as lun:
            disk = await lun.read(0, BLOCKS)
        assert ledger.faults(disk) == []
        ledger.resume(disk)
    assert sum(map(bool, ledger.durable)) > BLOCKS // 2


def test_the_check_sees_a_lost_a_torn_and_a_misplaced_block() -> None:
    ledger = Ledger()
    old = ledger.send(0, 4)
    ledger.keep(0, ledger.sent[:4])
    new = ledger.send(0, 4)
    rest = bytes((BLOCKS - 4) * BLOCK)
    assert ledger.faults(old + rest) == []
    assert ledger.faults(new + rest) == []
    assert ledger.faults(new[:BLOCK] + old[BLOCK:] + rest) == []
    assert ledger.faults(old[: 3 * BLOCK] + bytes(BLOCK) + rest) == ["block 3 has 0, of 1 (safe) to 2 (sent)"]
    assert ledger.faults(old[:256] + new[256:] + rest) == ["block 0 is torn or is block 0"]
    assert ledger.faults(old[BLOCK : 2 * BLOCK] + old[BLOCK:] + rest) == ["block 0 is torn or is block 1"]
    assert ledger.faults(stamped(0, 5, 2) + rest[BLOCK:]) == ["block 4 has 2, of 0 (safe) to 0 (sent)"]
