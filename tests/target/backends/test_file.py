"""The file backend: real files, a real full store, real I/O errors, and a loop that is never blocked."""
# ruff: noqa: ASYNC240 - a test may look at a small file while its loop has nothing else to do

from __future__ import annotations

import asyncio
import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from target.backends import file as file_module
from target.backends.base import BackendCap
from target.backends.file import INLINE_LIMIT, FileBackend

SIZE = 2 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """The kernel refuses to let any file of this process grow past 64 KiB."""
    limit = 64 << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def replace_by(backend: FileBackend, device: str, flags: int) -> None:
    """Let the kernel's ``device`` stand where the file was: its errors are real ones."""
    other = os.open(device, flags)
    os.dup2(other, backend._fd)
    os.close(other)


async def test_a_new_file_is_sparse_private_and_kept(path: Path) -> None:
    backend = FileBackend(path, 1 << 30)
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks < 100
    assert path.stat().st_mode & 0o077 == 0
    await backend.writev((1 << 30) - 4, [memoryview(b"tail")], fua=True)
    await backend.close()
    again = FileBackend(path)
    assert again.size == 1 << 30
    assert again.capabilities & BackendCap.WRITE_CACHE
    seen = bytearray(4)
    await again.readv((1 << 30) - 4, [memoryview(seen)])
    assert seen == b"tail"
    await again.close()


async def test_existing_data_is_never_grown_or_cut(path: Path) -> None:
    path.write_bytes(b"x" * 2048)
    with pytest.raises(UsageError, match="has 2048 bytes, less than the size 4096"):
        FileBackend(path, 4096)
    backend = FileBackend(path, 1024)
    assert backend.blocks == 2
    await backend.close()
    assert path.read_bytes() == b"x" * 2048


async def test_without_a_size_whole_blocks_count(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    backend = FileBackend(path, block_size=4096)
    assert backend.blocks == 1
    await backend.close()


def test_what_cannot_be_opened_is_named_with_the_fix(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not exist; give a size"):
        FileBackend(path)
    with pytest.raises(BackendError, match="a read-only one is never made"):
        FileBackend(path, SIZE, read_only=True)
    with pytest.raises(BackendError, match="Is a directory"):
        FileBackend(tmp_path, SIZE)
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        FileBackend("/dev/null", SIZE)
    with pytest.raises(UsageError, match="not a positive multiple"):
        FileBackend(path, 1000)
    assert not path.exists()
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="smaller than one block"):
        FileBackend(path)


async def test_a_file_is_served_once_or_shared_by_readers(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    with pytest.raises(BackendError, match="in use by another target or LUN"):
        FileBackend(path)
    with pytest.raises(BackendError, match="in use"):
        FileBackend(path, read_only=True)
    await backend.close()
    readers = [FileBackend(path, read_only=True) for _ in range(2)]
    assert readers[0].capabilities == BackendCap.RESIZE | BackendCap.DISCARD
    for reader in readers:
        await reader.flush()
        with pytest.raises(UsageError, match="read-only"):
            await reader.writev(0, [memoryview(b"x")], fua=False)
        await reader.close()


@pytest.mark.parametrize("length", [512, INLINE_LIMIT + 512])
async def test_short_transfers_are_carried_on(path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """The system may move any part of what it was asked for; 100 bytes at a time here."""
    real_read, real_write = os.preadv, os.pwritev

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        return real_read(fd, [buffers[0][:100]], offset, flags)

    def pwritev(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        return real_write(fd, [buffers[0][:100]], offset, flags)

    backend = FileBackend(path, SIZE)
    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pwritev", pwritev)
    data = os.urandom(length)
    await backend.writev(7, [memoryview(data)[:33], memoryview(data)[33:]], fua=False)
    seen = bytearray(length)
    await backend.readv(7, [memoryview(seen)[:450], memoryview(seen)[450:]])
    assert seen == data
    await backend.close()


async def test_a_file_cut_behind_our_back_is_a_medium_error(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    os.truncate(path, 4096)
    with pytest.raises(BackendError, match="ends at byte 4096") as caught:
        await backend.readv(0, [memoryview(bytearray(8192))])
    assert (caught.value.medium, caught.value.offset) == (True, 4096)
    await backend.close()


async def test_a_store_that_cannot_grow_is_full_and_loses_nothing(path: Path, file_size_limit: int) -> None:
    path.touch()
    os.truncate(path, file_size_limit)
    backend = FileBackend(path)
    backend.blocks *= 2  # as if the file were sparse there
    await backend.writev(0, [memoryview(b"kept" * 128)], fua=True)
    with pytest.raises(BackendError, match="File too large") as caught:
        await backend.writev(file_size_limit, [memoryview(bytes(512))], fua=False)
    assert caught.value.space
    assert caught.value.medium
    seen = bytearray(512)
    await backend.readv(0, [memoryview(seen)])
    assert seen == b"kept" * 128
    await backend.close()


async def test_no_space_left_on_the_device(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    replace_by(backend, "/dev/full", os.O_RDWR)
    with pytest.raises(BackendError, match="No space left on device") as caught:
        await backend.writev(0, [memoryview(bytes(512))], fua=False)
    assert (caught.value.space, caught.value.medium) == (True, True)
    with pytest.raises(BackendError):
        await backend.close()


@pytest.mark.parametrize("length", [512, INLINE_LIMIT + 512])
async def test_an_input_output_error_of_the_kernel_is_a_medium_error(path: Path, length: int) -> None:
    backend = FileBackend(path, SIZE)
    replace_by(backend, "/proc/self/mem", os.O_RDWR)  # nothing is mapped at its first pages: EIO
    with pytest.raises(BackendError, match="Input/output error") as caught:
        await backend.readv(512, [memoryview(bytearray(length))])
    assert (caught.value.space, caught.value.medium, caught.value.offset) == (False, True, 512)
    with pytest.raises(BackendError) as caught:
        await backend.close()
    assert caught.value.offset is None  # a flush fails as a whole


async def test_a_failed_flush_is_remembered(path: Path) -> None:
    """The kernel reports lost writes once; whoever asks later must hear of them too."""
    backend = FileBackend(path, SIZE)
    saved = os.dup(backend._fd)
    replace_by(backend, "/dev/full", os.O_RDWR)  # cannot be synchronised
    with pytest.raises(BackendError, match="fdatasync"):
        await backend.flush()
    os.dup2(saved, backend._fd)
    os.close(saved)
    await backend.writev(0, [memoryview(b"x")], fua=False)
    with pytest.raises(BackendError, match="an earlier fdatasync"):
        await backend.flush()
    with pytest.raises(BackendError, match="an earlier fdatasync"):
        await backend.writev(0, [memoryview(b"x")], fua=True)
    with pytest.raises(BackendError, match="an earlier fdatasync"):
        await backend.close()


async def test_the_loop_turns_while_the_disk_does_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def slow(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        time.sleep(0.2)
        return real(fd, buffers, offset, flags)

    backend = FileBackend(path, SIZE, threads=4)
    monkeypatch.setattr(os, "pwritev", slow)
    start = time.monotonic()
    writes = [asyncio.create_task(backend.writev(512 * i, [memoryview(bytes(512))], False)) for i in range(4)]
    turns = 0
    while not all(write.done() for write in writes):
        await asyncio.sleep(0.01)
        turns += 1
    assert turns >= 5
    assert time.monotonic() - start < 0.7  # four at once, not one after the other
    await backend.close()


async def test_a_cancelled_write_ends_only_when_its_buffer_is_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = []
    real = os.pwritev

    def slow(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        time.sleep(0.1)
        finished.append(True)
        return real(fd, buffers, offset, flags)

    backend = FileBackend(path, SIZE)
    monkeypatch.setattr(os, "pwritev", slow)
    write = asyncio.create_task(backend.writev(0, [memoryview(b"done")], False))
    await asyncio.sleep(0.02)
    write.cancel()
    await asyncio.sleep(0.01)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert finished == [True]
    await backend.close()
    assert path.read_bytes()[:4] == b"done"


@pytest.fixture
def in_memory() -> Iterator[str]:
    """The path of a file that lies in memory."""
    file = os.memfd_create("disk")
    yield f"/proc/self/fd/{file}"
    os.close(file)


async def test_a_file_in_memory_needs_no_thread(in_memory: str) -> None:
    backend = FileBackend(in_memory, SIZE)
    data = os.urandom(8192)
    assert backend.writev_now(512, [memoryview(data)[:100], data[100:]], fua=True)
    seen = bytearray(8192)
    assert backend.readv_now(512, [memoryview(seen)[:4000], memoryview(seen)[4000:]])
    assert seen == data
    assert not backend._crew.threads
    for forbidden in (backend.readv_now, lambda at, buffers: backend.writev_now(at, buffers, False)):
        assert not forbidden(0, [memoryview(bytearray(INLINE_LIMIT + 512))])
        assert not forbidden(SIZE, [memoryview(bytearray(512))])  # perhaps it has shrunk: the slow way says so
    await backend.close()
    assert not backend.readv_now(0, [memoryview(bytearray(512))])
    assert not backend.writev_now(0, [bytes(512)], False)


async def test_a_write_at_once_waits_for_a_read_modify_write(in_memory: str) -> None:
    backend = FileBackend(in_memory, SIZE)
    hold = await backend.ranges.acquire(0, 512, exclusive=True)
    assert not backend.writev_now(0, [bytes(512)], False)
    backend.ranges.release(hold)
    assert backend.writev_now(0, [bytes(512)], False)
    await backend.close()


async def test_what_fails_at_once_is_left_to_the_pool(in_memory: str) -> None:
    """It finds the error again, and says it."""
    backend = FileBackend(in_memory, SIZE)
    saved = os.dup(backend._fd)
    replace_by(backend, "/dev/full", os.O_RDWR)
    assert not backend.writev_now(0, [bytes(512)], False)
    with pytest.raises(BackendError, match="fdatasync"):
        await backend.flush()
    os.dup2(saved, backend._fd)
    os.close(saved)
    assert not backend.writev_now(0, [bytes(512)], True)  # what was lost before is not stored by it
    os.truncate(backend._fd, 4096)
    assert not backend.readv_now(0, [memoryview(bytearray(8192))])
    with pytest.raises(BackendError):
        await backend.close()


def as_on_disk(backend: FileBackend) -> None:
    """Wherever this test keeps its files."""
    backend._inline_flags, backend._memory = os.RWF_NOWAIT, False


async def test_a_cached_file_is_read_at_once(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    as_on_disk(backend)
    await backend.writev(0, [memoryview(b"x" * 512)], False)
    seen = bytearray(512)
    if backend.readv_now(0, [memoryview(seen)]):  # not every file system can tell
        assert seen == b"x" * 512
    await backend.close()


@pytest.mark.parametrize("answer", [errno.EOPNOTSUPP, errno.EAGAIN, errno.ENOSPC, None])
async def test_a_disk_is_written_at_once_where_that_does_not_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    """As the file system answers.  One that knows no such writes is asked once; a full one says so in the pool."""
    asked = []
    real = os.pwritev

    def pwritev(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
        if not flags:
            return real(fd, buffers, offset)
        asked.append(flags)
        if answer is None:
            return real(fd, buffers, offset)
        raise OSError(answer, os.strerror(answer))

    backend = FileBackend(path, SIZE)
    as_on_disk(backend)
    monkeypatch.setattr(os, "pwritev", pwritev)
    assert not backend.writev_now(0, [b"y" * 512], True)  # FUA is for the disk
    assert asked == []
    for _ in range(2):
        assert backend.writev_now(0, [b"x" * 512], False) == (answer is None)
    assert asked == [os.RWF_NOWAIT] * (1 if answer == errno.EOPNOTSUPP else 2)
    await backend.close()
    assert path.read_bytes()[:512] == (b"x" * 512 if answer is None else bytes(512))


async def test_a_closed_backend_says_so(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    await backend.close()
    for operation in (
        backend.readv(0, [memoryview(bytearray(512))]),
        backend.writev(0, [memoryview(bytes(512))], False),
        backend.flush(),
    ):
        with pytest.raises(BackendError, match="is closed"):
            await operation


async def test_a_discard_gives_the_space_back_and_extents_tell(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    await backend.writev(0, [memoryview(b"x" * SIZE)], True)
    full = path.stat().st_blocks
    await backend.discard(SIZE // 2, SIZE // 2)
    assert path.stat().st_blocks <= full // 2 + 16
    assert path.stat().st_size == SIZE
    assert await backend.extents(0, SIZE, 9) == [(SIZE // 2, True), (SIZE // 2, False)]
    await backend.discard(512, 512)  # less than a block of the file system: zeroed, and still mapped
    seen = bytearray(1536)
    await backend.readv(0, [memoryview(seen)])
    assert seen == b"x" * 512 + bytes(512) + b"x" * 512
    assert await backend.extents(512, 512, 9) == [(512, True)]
    await backend.close()


async def test_it_grows_shrinks_and_takes_over_what_the_file_became(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    await backend.resize(2 * SIZE)
    assert (backend.size, path.stat().st_size) == (2 * SIZE, 2 * SIZE)
    await backend.resize(SIZE)
    assert (backend.size, path.stat().st_size) == (SIZE, 2 * SIZE)  # what lies behind is kept
    os.truncate(path, 4 * SIZE + 100)
    await backend.resize(None)
    assert backend.size == 4 * SIZE
    for wrong in (0, 1000):
        with pytest.raises(UsageError, match="not a positive multiple"):
            await backend.resize(wrong)
    await backend.close()
    reader = FileBackend(path, read_only=True)
    with pytest.raises(UsageError, match="cannot grow"):
        await reader.resize(8 * SIZE)
    await reader.close()


async def test_what_the_system_refuses_is_told(path: Path) -> None:
    backend = FileBackend(path, SIZE)
    replace_by(backend, "/dev/null", os.O_RDWR)
    with pytest.raises(BackendError, match="fallocate at byte 0"):
        await backend.discard(0, 512)
    with pytest.raises(BackendError, match="ftruncate"):
        await backend.resize(2 * SIZE)
    read_end, write_end = os.pipe()
    os.dup2(read_end, backend._fd)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(BackendError, match="lseek at byte 0"):
        await backend.extents(0, 512, 1)
    with pytest.raises(BackendError):
        await backend.close()


async def test_a_file_system_without_holes_is_not_thin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(file_module, "punch_hole", refuse)
    backend = FileBackend(path, SIZE)
    assert not backend.capabilities & BackendCap.DISCARD
    await backend.close()
