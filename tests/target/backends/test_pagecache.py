"""The page cache as it is lent: what is in memory, nothing else, and a target that outlives a file that is cut.

No test looks at lent bytes that may not be there: that would kill it, as it would the target.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import initiator
from initiator.url import Portal
from iser.datamover.tcp import TcpInitiator
from target.backends import pagecache
from target.backends.file import FileBackend
from target.backends.pagecache import KEEP, LEAST_ON_DISK, MAX_LOAN, PageCache, map_file
from tests.target.peer import TARGET, config, disk, serving

MIB = 1 << 20
PAGE = mmap.PAGESIZE
SIZE = 8 * MIB
#: Two stretches and a bit, as the kernel is asked.
ODD = 4 * MIB + 512


@pytest.fixture
def file() -> Iterator[int]:
    """A file in memory, all of it a hole."""
    fd = os.memfd_create("disk")
    os.truncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def path(file: int) -> str:
    return f"/proc/self/fd/{file}"


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files in memory for those of a disk, whatever the machine of this test has."""
    monkeypatch.setattr(pagecache, "in_memory", lambda _: False)
    monkeypatch.setattr(pagecache, "coherent", lambda _: True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still: what was seen is believed until a test lets it pass."""
    now = [100.0]
    monkeypatch.setattr(pagecache, "monotonic", lambda: now[0])
    return now


def mapped(file: int, size: int = SIZE) -> PageCache:
    pages = map_file(file, size)
    assert pages is not None
    return pages


def space(file: int | str) -> int:
    """Bytes that the file takes."""
    return os.stat(file).st_blocks * 512


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_is_in_memory_is_lent_at_any_place(file: int, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "disk":
        request.getfixturevalue("on_disk")
    data = os.urandom(SIZE)
    os.pwrite(file, data, 0)
    pages = mapped(file, ODD)
    for _ in range(2):  # the second time it may be known
        for offset, length in ((0, MIB), (512, LEAST_ON_DISK), (2 * MIB - 512, 2 * MIB), (0, ODD), (ODD - MIB, MIB)):
            view = pages.lend(offset, length)
            assert view is not None
            assert view == data[offset : offset + length]
            assert view.readonly
    assert pages.lend(ODD - MIB, MIB + 512) is None  # beyond the end


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_hole_is_not_lent_and_stays_one(file: int, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "disk":
        request.getfixturevalue("on_disk")
    os.pwrite(file, bytes(MIB), MIB)
    pages, before = mapped(file), space(file)
    for offset in range(0, SIZE - MIB, 512 << 10):
        assert (pages.lend(offset, MIB) is not None) == (offset == MIB)
    assert pages.lend(MIB - 512, MIB) is None
    assert pages.lend(MIB + 512, MIB) is None
    assert space(file) == before == MIB


def test_little_of_a_disk_is_not_worth_the_look(file: int, on_disk: None) -> None:
    os.pwrite(file, bytes(SIZE), 0)
    pages = mapped(file)
    assert pages.lend(0, LEAST_ON_DISK) is not None
    assert pages.lend(0, LEAST_ON_DISK - 512) is None


def test_a_disk_is_asked_each_time(file: int, on_disk: None) -> None:
    os.pwrite(file, bytes(SIZE), 0)
    pages = mapped(file)
    assert pages.lend(0, MIB) is not None
    os.truncate(file, 0)
    assert pages.lend(0, MIB) is None


def test_what_was_seen_is_believed_for_a_while(file: int, clock: list[float]) -> None:
    pages = mapped(file)
    assert pages.lend(0, MIB) is None
    os.pwrite(file, bytes(SIZE), 0)
    assert pages.lend(0, MIB) is None
    clock[0] += KEEP
    assert pages.lend(0, MIB) is not None
    os.truncate(file, 0)
    clock[0] += KEEP / 2
    assert pages.lend(0, MIB) is not None
    clock[0] += KEEP / 2
    assert pages.lend(0, MIB) is None


def test_neither_too_much_nor_too_far_is_lent(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.pwrite(file, bytes(2 * MAX_LOAN), 0)
    pages = mapped(file, 2 * MAX_LOAN)
    assert pages.lend(512, MAX_LOAN) is not None
    assert pages.lend(512, MAX_LOAN + 512) is None
    monkeypatch.setattr(pagecache, "MAX_MAPPED", 4 * MIB)
    pages = mapped(file, 2 * MAX_LOAN)
    assert pages.size == 4 * MIB
    assert pages.lend(3 * MIB, MIB) is not None
    assert pages.lend(3 * MIB, MIB + 512) is None


def test_a_file_that_the_kernel_would_lie_about_is_not_mapped(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stranger's file that we may not write mincore says that all of it is there."""
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(file).st_uid + 1)
    assert map_file(file, SIZE) is not None  # we may write it
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert map_file(file, SIZE) is None


def test_nothing_is_mapped_where_a_sandbox_forbids_the_look(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecache, "_mincore", lambda *_: -1)
    assert map_file(file, SIZE) is None


def test_what_cannot_be_mapped_is_not(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert map_file(file, 2 * SIZE) is None  # it was cut
    status = os.open("/proc/self/status", os.O_RDONLY)
    assert map_file(status, 512) is None  # of no file system that is known for it
    monkeypatch.setattr(pagecache, "coherent", lambda _: True)
    assert map_file(status, 512) is None
    os.close(status)


async def test_a_backend_lends_until_it_is_closed_and_the_lock_goes_with_it(path: str) -> None:
    backend = FileBackend(path, SIZE)
    data = os.urandom(MIB)
    assert backend.writev_now(MIB, [data], False)
    lent = backend.lend(MIB, MIB)
    assert lent is not None
    await backend.close()
    assert backend.lend(MIB, MIB) is None
    again = FileBackend(path)  # though an answer of the first is still being sent
    assert lent[0] == data
    await again.close()


async def test_a_backend_that_grows_lends_what_is_new(path: str) -> None:
    backend = FileBackend(path, SIZE)
    assert backend.writev_now(0, [bytes(MIB)], False)
    old = backend.lend(0, MIB)
    await backend.resize(2 * SIZE)
    assert backend.writev_now(2 * SIZE - MIB, [b"new!" * (MIB // 4)], False)
    lent = backend.lend(2 * SIZE - MIB, MIB)
    assert old is not None
    assert lent is not None
    assert (bytes(lent[0][:4]), bytes(old[0][:4])) == (b"new!", bytes(4))
    await backend.resize(SIZE)
    assert backend.lend(SIZE - 512, 1024) is None
    await backend.close()


async def test_a_discard_is_seen_at_once(path: str, clock: list[float]) -> None:
    backend = FileBackend(path, SIZE)
    assert all(backend.writev_now(at, [b"x" * MIB], False) for at in range(0, SIZE, MIB))
    assert backend.lend(0, MIB) is not None
    await backend.discard(0, SIZE)
    assert backend.lend(0, MIB) is None
    assert space(path) == 0
    await backend.close()


def on_tcp(path: str, **changes: Any) -> Any:
    """A server of ``path`` over TCP."""
    tables = {"portal": {"p": {"listen": "iscsi://127.0.0.1:0"}}, "target": disk(backend="file", path=path, size="8M")}
    return serving(config(**(tables | changes)))


def url(port: int) -> initiator.Url:
    return initiator.Url(Portal("127.0.0.1", port, "tcp"), TARGET)


@pytest.mark.parametrize("options", [{}, {"header_digest": True}, {"data_digest": True}])
@pytest.mark.parametrize("blocks", [1, 8, 300, 8192])
async def test_reads_give_what_was_written_and_leave_holes(path: str, options: dict[str, bool], blocks: int) -> None:
    async with on_tcp(path) as (server, port), await initiator.connect(url(port), **options) as lun:
        data = os.urandom(512 * blocks)
        await lun.write(16, data)
        taken = space(path)
        assert await lun.read(16, blocks) == data
        assert await lun.read(16, 8192) == data.ljust(4 * MIB, b"\0")
        await lun.write(16, bytes(len(data)))
        assert await lun.read(16, blocks) == bytes(len(data))
        assert space(path) == taken
        if options.get("data_digest"):
            assert server.staging.high_water  # a digest is of bytes that do not change any more


@pytest.mark.parametrize("length", [8, 4000])
async def test_a_file_that_is_cut_under_a_read_ends_one_connection(
    path: str, clock: list[float], length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The head of the answer may be out when the kernel finds that there is no data for it."""
    caplog.set_level("INFO")
    async with on_tcp(path) as (_, port):
        lun = await initiator.connect(url(port))
        await lun.write(0, bytes(4 * MIB))
        assert await lun.read(0, length) == bytes(512 * length)
        os.truncate(path, PAGE)
        with pytest.raises(initiator.ConnectionLost):
            await lun.read(8, length)
        await lun.close()
        assert "its file was cut?" in caplog.text
        clock[0] += KEEP
        async with await initiator.connect(url(port)) as again:
            with pytest.raises(initiator.CommandError, match="MEDIUM ERROR"):
                await again.read(8, length)
            assert await again.read(0, 8) == bytes(PAGE)


@pytest.mark.parametrize("way", ["digest", "iser"])
async def test_who_looks_at_the_data_is_lent_nothing(path: str, clock: list[float], way: str) -> None:
    """Else the target, which is this process, would be killed."""
    where = "iser" if way == "iser" else "iscsi"
    async with on_tcp(path, portal={"p": {"listen": f"{where}://127.0.0.1:0"}}) as (_, port):
        place = initiator.Url(Portal("127.0.0.1", port, "iser" if way == "iser" else "tcp"), TARGET)
        async with await initiator.connect(place, data_digest=way == "digest") as lun:
            await lun.write(0, bytes(4 * MIB))
            assert await lun.read(8, 8) == bytes(PAGE)
            os.truncate(path, PAGE)
            with pytest.raises(initiator.CommandError, match="MEDIUM ERROR"):
                await lun.read(8, 8)


async def test_a_lun_that_goes_while_its_answer_waits(path: str, tmp_path: Path) -> None:
    """The peer does not read, so the answers stand in the queue when a reload closes the file."""
    other = disk(backend="file", path=str(tmp_path / "other"), size="1M")
    async with on_tcp(path) as (server, port):
        lun = await initiator.connect(url(port))
        data = os.urandom(8 * MIB)
        await lun.write(0, data)
        datamover = lun.session._datamover
        assert isinstance(datamover, TcpInitiator)
        datamover._stream._pause()
        reads = [asyncio.create_task(lun.read(0, 16384)) for _ in range(4)]
        await asyncio.sleep(0.2)
        await server.reload(config(portal={"p": {"listen": "iscsi://127.0.0.1:0"}}, target=other))
        datamover._stream._resume()
        assert await asyncio.gather(*reads) == [data] * 4
        FileBackend(path).abandon()  # nobody has the lock
        await lun.close()
