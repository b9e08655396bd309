from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from pathlib import Path

import pytest

import initiator
from initiator import Lun, Url
from initiator.stream import CHUNK, DEPTH, FileSink, FileSource, LunSink, LunSource, Sink, Source, copy
from initiator.url import Portal
from iser.errors import IserError, UsageError
from tests.target.peer import TARGET, config, serving

BLOCKS = 2048


class MemorySource(Source):
    """``size`` hidden or told; fetches end out of order."""

    def __init__(self, content: bytes, *, told: bool, fail_at: int = -1) -> None:
        self.content = content
        self.size = len(content) if told else None
        self.fail_at = fail_at
        self.running = self.most = 0

    async def fetch(self, offset: int, buffer: memoryview) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(random.random() / 500)
            if offset == self.fail_at:
                raise IserError("cannot read on")
            part = self.content[offset : offset + len(buffer)]
            buffer[: len(part)] = part
            return len(part)
        finally:
            self.running -= 1


class MemorySink(Sink):
    def __init__(self, *, fail_at: int = -1) -> None:
        self.parts: dict[int, bytes] = {}
        self.fail_at = fail_at
        self.finished = False
        self.running = 0

    async def store(self, offset: int, data: memoryview) -> None:
        self.running += 1
        try:
            await asyncio.sleep(random.random() / 500)
            if offset == self.fail_at:
                raise IserError("cannot write on")
            self.parts[offset] = bytes(data)
        finally:
            self.running -= 1

    async def finish(self) -> None:
        self.finished = True

    @property
    def content(self) -> bytes:
        return b"".join(self.parts[offset] for offset in sorted(self.parts))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, (DEPTH + 3) * CHUNK, (DEPTH * 2) * CHUNK + 5])
async def test_everything_arrives_once(told: bool, size: int) -> None:
    content = random.Random(size).randbytes(size)
    source, sink = MemorySource(content, told=told), MemorySink()
    heard: list[int] = []
    assert await copy(source, sink, heard.append) == size
    assert sink.content == content
    assert sum(heard) == size
    assert sink.finished
    assert source.most <= DEPTH


@pytest.mark.parametrize("side", ["source", "sink"])
async def test_an_error_ends_all_that_was_on_its_way(side: str) -> None:
    source = MemorySource(bytes(20 * CHUNK), told=True, fail_at=3 * CHUNK if side == "source" else -1)
    sink = MemorySink(fail_at=3 * CHUNK if side == "sink" else -1)
    with pytest.raises(IserError, match="cannot"):
        await copy(source, sink)
    assert source.running == sink.running == 0
    assert not sink.finished


async def test_files(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * CHUNK + 17)
    (tmp_path / "in").write_bytes(content)
    source, sink = FileSource.open(str(tmp_path / "in")), FileSink.open(str(tmp_path / "out"))
    assert source.size == len(content)
    await copy(source, sink)
    source.close()
    sink.close()
    sink.close()
    assert (tmp_path / "out").read_bytes() == content


async def test_faults_of_files_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing: No such file"):
        FileSource.open(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"none/out: No such file"):
        FileSink.open(str(tmp_path / "none" / "out"))
    source = FileSource.open(str(tmp_path))
    with pytest.raises(IserError, match="Is a directory"):
        await copy(source, MemorySink())
    source.close()
    sink = FileSink.open("/dev/full")
    with pytest.raises(IserError, match="/dev/full: No space left on device"):
        await copy(MemorySource(b"x", told=True), sink)
    sink.close()


async def test_a_pipe_that_comes_in_pieces() -> None:
    reader, writer = os.pipe()
    content = random.Random(2).randbytes(2 * CHUNK + 3)

    def feed() -> None:
        for at in range(0, len(content), 50_000):
            os.write(writer, content[at : at + 50_000])
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    source, sink = FileSource(reader, "pipe", owned=True), MemorySink()
    assert source.size is None
    assert await copy(source, sink) == len(content)
    assert sink.content == content
    source.close()
    thread.join()


async def test_cancelling_does_not_wait_for_input() -> None:
    reader, writer = os.pipe()
    source = FileSource(reader, "pipe", owned=False)
    task = asyncio.create_task(copy(source, MemorySink()))
    await asyncio.sleep(0.05)
    start = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    source.close()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert time.monotonic() - start < 2
    os.close(reader)
    os.close(writer)


async def test_a_reader_that_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = FileSink(writer, "pipe", owned=True)
    with pytest.raises(BrokenPipeError):
        await copy(MemorySource(b"x", told=True), sink)
    sink.close()


async def connected(port: int) -> Lun:
    return await initiator.connect(Url(Portal("127.0.0.1", port), TARGET))


async def test_luns_as_source_and_sink() -> None:
    content = random.Random(3).randbytes(1000 * 512)
    async with serving(config()) as (_, port), await connected(port) as lun:
        assert await copy(MemorySource(content, told=False), LunSink(lun, 10)) == len(content)
        sink = MemorySink()
        assert await copy(LunSource(lun, 10, 1000), sink) == len(content)
        assert sink.content == content
        assert LunSource(lun).size == BLOCKS * 512
        assert LunSource(lun, BLOCKS).size == 0


async def test_a_partial_last_block_is_refused_or_filled_up() -> None:
    async with serving() as (_, port), await connected(port) as lun:
        with pytest.raises(UsageError, match="ends with 3 bytes of a block of 512; use --pad"):
            LunSink(lun, 0, 515)
        with pytest.raises(UsageError, match="ends with 3 bytes"):
            await copy(MemorySource(b"a" * 515, told=False), LunSink(lun))
        assert await lun.read(0, 2) == b"a" * 512 + bytes(512)
        await lun.write(0, b"z" * 1024)
        await copy(MemorySource(b"b" * 515, told=False), LunSink(lun, 0, 515, pad=True))
        assert await lun.read(0, 2) == b"b" * 515 + bytes(509)


async def test_what_does_not_fit_is_refused() -> None:
    async with serving() as (_, port), await connected(port) as lun:
        for lba, blocks in ((BLOCKS + 1, None), (0, BLOCKS + 1), (5, BLOCKS), (-1, 1), (0, -1)):
            with pytest.raises(UsageError, match=r"not (all )?on the LUN"):
                LunSource(lun, lba, blocks)
        with pytest.raises(UsageError, match="not on the LUN"):
            LunSink(lun, BLOCKS + 1)
        with pytest.raises(UsageError, match="more than the 512 bytes"):
            LunSink(lun, BLOCKS - 1, 1024)
        with pytest.raises(UsageError, match="more than the 512 bytes"):
            await copy(MemorySource(bytes(1024), told=False), LunSink(lun, BLOCKS - 1))
