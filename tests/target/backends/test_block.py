"""Direct access: on a file here, and on a loop device where the machine lets us have one."""
# ruff: noqa: ASYNC240 - a test may look at a small file while its loop has nothing else to do

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from target.backends.base import BackendCap
from target.backends.block import BOUNCE, BlockBackend
from target.backends.conformance import check_backend

SIZE = 4 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file on a file system with direct access."""
    file = tmp_path / "disk"
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip(f"{tmp_path} is on a file system without direct access")
    file.unlink()
    return file


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A block device."""
    backing = tmp_path / "backing"
    backing.touch()
    os.truncate(backing, SIZE)
    try:
        made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop device is to be had here")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


async def test_a_file_keeps_the_contract(path: Path) -> None:
    backend = BlockBackend(path, SIZE, block_size=4096)
    assert await check_backend(backend) == []
    await backend.resize(2 * SIZE)
    assert backend.size == 2 * SIZE
    await backend.close()
    await backend.close()


@pytest.mark.parametrize("length", [4096, BOUNCE + 4096])
@pytest.mark.parametrize("shift", [0, 1])
async def test_memory_may_lie_anywhere(path: Path, length: int, shift: int) -> None:
    backend = BlockBackend(path, SIZE, block_size=4096)
    data = os.urandom(length)
    memory = memoryview(mmap.mmap(-1, length + 4096))[shift : shift + length]
    memory[:] = data
    await backend.writev(8192, [memory[:100], memory[100:]], True)
    assert path.read_bytes()[8192 : 8192 + length] == data
    memory[:] = bytes(length)
    await backend.readv(8192, [memory])
    assert memory == data
    await backend.writev(0, [memoryview(data)], False)  # memory that cannot be written is copied
    assert path.read_bytes()[:length] == data
    await backend.close()


def test_blocks_smaller_than_sectors_are_refused_with_the_fix(path: Path) -> None:
    for _ in range(2):  # and the file is not left locked
        with pytest.raises(UsageError, match="has sectors of 4096 bytes; set block_size = 4096"):
            BlockBackend(path, SIZE)


def test_what_has_no_direct_access_is_named() -> None:
    with pytest.raises(UsageError, match=r"has no direct access; use backend = 'file'|neither a file"):
        BlockBackend("/dev/null")
    with pytest.raises(BackendError, match="does not exist"):
        BlockBackend("/nowhere/disk")


async def test_a_block_device(device: str) -> None:
    backend = BlockBackend(device)
    assert (backend.size, backend.sector) == (SIZE, 512)
    assert await check_backend(backend) == []
    with pytest.raises(BackendError, match="in use by another"):
        BlockBackend(device)
    if backend.capabilities & BackendCap.DISCARD:
        await backend.discard(0, SIZE)
    await backend.close()
    with pytest.raises(UsageError, match="lower the size or enlarge"):
        BlockBackend(device, 2 * SIZE)
    reader = BlockBackend(device, read_only=True)
    await reader.readv(0, [memoryview(bytearray(512))])
    await reader.close()
