"""NBD exports: a real nbdkit, where there is one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iser.errors import BackendError, UsageError
from target.backends.base import BackendCap
from target.backends.conformance import check_backend
from target.backends.libnbd import library
from target.backends.nbd import NbdBackend

SIZE = 1 << 20

_ERRORS = ("error-pread=EIO", "error-pread-rate=100%", "error-pwrite=ENOSPC", "error-pwrite-rate=100%")


def _missing() -> str:
    """What is needed for these tests and not there."""
    if shutil.which("nbdkit") is None:
        return "nbdkit is not installed"
    try:
        library()
    except BackendError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "all is there")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


class Servers:
    """Real servers, by the URI of what they serve."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.running: list[subprocess.Popen[bytes]] = []

    def serve(self, *arguments: str) -> str:
        """Start an nbdkit and wait until it can be reached."""
        path = self.path / f"nbd{len(self.running)}"
        command = ["nbdkit", "-f", "-U", str(path), *arguments]
        self.running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 10
        while not _accepts(path):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return f"nbd+unix:///?socket={path}"

    def kill(self) -> None:
        """End all of them, at once."""
        for process in self.running:
            process.kill()
            process.wait()
        self.running.clear()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.kill()


@pytest.mark.parametrize("kind", ["memory", "file", "sectors of 512"])
async def test_it_keeps_the_contract(servers: Servers, tmp_path: Path, kind: str) -> None:
    (tmp_path / "disk").write_bytes(bytes(SIZE))
    arguments = {
        "memory": ["memory", "1M"],
        "file": ["file", str(tmp_path / "disk")],
        "sectors of 512": [
            "--filter=blocksize-policy",
            "memory",
            "1M",
            "blocksize-minimum=512",
            "blocksize-preferred=4k",
            "blocksize-maximum=64k",
            "blocksize-error-policy=error",
        ],
    }[kind]
    backend = NbdBackend(servers.serve(*arguments))
    assert backend.size == SIZE
    assert backend.capabilities == BackendCap.WRITE_CACHE | BackendCap.DISCARD
    assert await check_backend(backend) == []
    await backend.close()
    await backend.close()
    with pytest.raises(BackendError, match="is closed"):
        await backend.readv(0, [memoryview(bytearray(512))])


async def test_what_was_written_is_at_the_server(servers: Servers, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(32 << 20))
    backend = NbdBackend(servers.serve("file", str(disk)), block_size=4096)
    data = bytes(range(256)) * (20 << 12)  # more than one request takes
    await backend.writev(4096, [memoryview(data)], True)
    assert disk.read_bytes()[4096 : 4096 + len(data)] == data
    before = disk.stat().st_blocks
    await backend.discard(4096, len(data))
    assert disk.stat().st_blocks < before // 2
    assert await backend.extents(0, 32 << 20, 9) != [(32 << 20, True)]
    await backend.close()


async def test_requests_run_side_by_side(servers: Servers) -> None:
    backend = NbdBackend(servers.serve("--filter=delay", "memory", "1M", "rdelay=200ms"))
    start = time.monotonic()
    await asyncio.gather(*(backend.readv(512 * i, [memoryview(bytearray(512))]) for i in range(8)))
    assert time.monotonic() - start < 0.8  # and not 1.6 seconds
    await backend.close()


async def test_errors_of_the_server(servers: Servers) -> None:
    failing = servers.serve("--filter=error", "memory", "1M", *_ERRORS)
    backend = NbdBackend(failing)
    with pytest.raises(BackendError, match="Input/output error") as caught:
        await backend.readv(1024, [memoryview(bytearray(512))])
    assert (caught.value.medium, caught.value.space, caught.value.offset) == (True, False, 1024)
    with pytest.raises(BackendError, match="No space left") as caught:
        await backend.writev(512, [memoryview(bytes(512))], False)
    assert (caught.value.space, caught.value.offset) == (True, 512)
    await backend.close()


async def test_a_server_that_dies_ends_every_request(servers: Servers) -> None:
    backend = NbdBackend(servers.serve("--filter=delay", "memory", "1M", "rdelay=30"))
    waiting = [asyncio.ensure_future(backend.readv(0, [memoryview(bytearray(512))])) for _ in range(5)]
    await asyncio.sleep(0.05)
    servers.kill()
    for result in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5):
        assert isinstance(result, BackendError)
    with pytest.raises(BackendError):
        await backend.flush()
    with pytest.raises(BackendError):
        await backend.close()
    await backend.close()


async def test_an_idle_connection_that_ends_costs_nothing(servers: Servers) -> None:
    backend = NbdBackend(servers.serve("memory", "1M"))
    await backend.readv(0, [memoryview(bytearray(512))])
    servers.kill()
    before = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - before < 0.1
    with pytest.raises(BackendError, match="closed the connection"):
        await backend.readv(0, [memoryview(bytearray(512))])
    with pytest.raises(BackendError):
        await backend.close()


async def test_a_cancelled_read_ends_only_when_its_buffer_is_free(servers: Servers) -> None:
    backend = NbdBackend(servers.serve("--filter=delay", "memory", "1M", "rdelay=200ms"))
    buffer = bytearray(b"x" * 512)
    read = asyncio.ensure_future(backend.readv(0, [memoryview(buffer)]))
    await asyncio.sleep(0.02)
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert buffer == bytes(512)
    await backend.close()


async def test_exports_that_do_not_fit(servers: Servers, tmp_path: Path) -> None:
    uri = servers.serve("memory", "1M")
    with pytest.raises(UsageError, match="less than the size"):
        NbdBackend(uri, 2 * SIZE)
    with pytest.raises(UsageError, match="smaller than one block"):
        NbdBackend(servers.serve("memory", "100"))
    with pytest.raises(BackendError, match=r"nbd_connect|No such file"):
        NbdBackend(f"nbd+unix:///?socket={tmp_path / 'none'}")
    with pytest.raises(BackendError):
        NbdBackend("no URI at all")
    locked = servers.serve("-r", "memory", "1M")
    with pytest.raises(UsageError, match="set read_only = true"):
        NbdBackend(locked)
    reader = NbdBackend(locked, SIZE // 2, read_only=True)
    assert reader.size == SIZE // 2
    with pytest.raises(UsageError, match="read-only"):
        await reader.writev(0, [memoryview(bytes(512))], False)
    await reader.flush()
    await reader.close()
    coarse = servers.serve("--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096")
    with pytest.raises(UsageError, match="set block_size = 4096"):
        NbdBackend(coarse)
