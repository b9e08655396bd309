from __future__ import annotations

import asyncio
import sys

import pytest

import initiator
from initiator import loopback
from initiator.loopback import target_process
from iser.errors import ConnectionFailed


async def test_a_target_that_ends_with_its_context() -> None:
    async with target_process("1M") as url, await initiator.connect(url) as lun:
        assert lun.capacity.size == 1 << 20
    with pytest.raises(ConnectionFailed):
        await initiator.connect(url)


async def test_it_ends_also_when_the_work_fails() -> None:
    urls = []

    async def work() -> None:
        async with target_process("1M") as url:
            urls.append(url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    with pytest.raises(ConnectionFailed):
        await initiator.connect(urls[0])


async def test_a_target_that_does_not_start() -> None:
    with pytest.raises(ConnectionFailed, match="ended before it listened"):
        async with target_process("nonsense"):
            pass


async def test_a_target_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "STOP_TIMEOUT", 0.2)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    await process.stdout.readline()
    await loopback._stop(process)
    assert process.returncode == -9


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
async def test_a_target_does_not_outlive_a_process_that_is_killed() -> None:
    script = (
        "import asyncio\n"
        "from initiator.loopback import started_target\n"
        "async def work():\n"
        "    async with started_target('1M') as (url, pid):\n"
        "        print(url, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(work())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    url = (await process.stdout.readline()).decode().strip()
    process.kill()
    await process.wait()
    async with asyncio.timeout(10):
        while True:
            try:
                lun = await initiator.connect(url, login_timeout=1)
            except ConnectionFailed:
                break
            await lun.close()
            await asyncio.sleep(0.05)
