"""Every strategy end to end, on the real target: bytes against a plain model, exact counts, and nothing left over."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initiator
from initiator import Lun, Url
from initiator.url import Portal
from iser.errors import ResourceError, ScsiError, UsageError
from iser.sg import STRATEGY_NAMES, Planner, RegistrationCounters, SgClass, SgList
from iser.sg.pool import MAX_ARENAS
from tests.sg.lists import Arena
from tests.target.peer import TARGET, serving

SIZE = 1 << 20
PAGE = 4096

SHAPES: dict[str, list[tuple[int, int]]] = {
    "single": [(0, 8 * PAGE)],
    "pages": [(3 * PAGE * n, PAGE) for n in (4, 2, 7, 0, 5, 1, 3, 6)],
    "sectors": [(3 * PAGE * n + 1536, 2048) for n in range(16)],
    "bytes": [(5, 4000), (9001, 96), (3 * PAGE + 1, 8 * PAGE - 4096)],
}


async def lun_on(port: int, **options: Any) -> Lun:
    return await initiator.connect(Url(Portal("127.0.0.1", port), TARGET), **{"immediate_data": False, **options})


def planner_of(lun: Lun) -> Planner:
    assert lun.link.planner is not None
    return lun.link.planner


def spent(lun: Lun, before: RegistrationCounters) -> RegistrationCounters:
    return lun.counters.since(before)


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "local"])
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
async def test_each_byte_goes_where_the_concatenation_has_it(strategy: str, remote: bool) -> None:
    randomness = random.Random(strategy)
    model = bytearray(SIZE)
    options = {"strategy": strategy, "remote_invalidate": remote, "immediate_data": strategy == "immediate"}
    async with serving() as (_, port), await lun_on(port, **options) as lun:
        for _ in range(3):
            for spans in SHAPES.values():
                arena, other = Arena(), Arena()
                arena.memory[:] = randomness.randbytes(SIZE)
                other.memory[:] = arena.memory
                lba = randomness.randrange(1000)
                views = arena.cut(spans)
                await lun.write(lba, views)
                data = b"".join(views)
                model[lba * 512 : lba * 512 + len(data)] = data
                first = randomness.randrange(1000)
                await lun.read_into(first, other.cut(spans))
                at = first * 512
                for offset, length in spans:
                    arena.memory[offset : offset + length] = model[at : at + length]
                    at += length
                assert other.memory == arena.memory  # and not a byte beside the list
        assert await lun.read(0, SIZE // 512) == model
        assert planner_of(lun).in_use == 0


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32), st.sampled_from(STRATEGY_NAMES))
def test_random_lists_under_every_strategy(seed: int, strategy: str) -> None:
    async def body() -> None:
        randomness = random.Random(seed)
        async with serving() as (_, port), await lun_on(port, strategy=strategy, immediate_data=True) as lun:
            for _ in range(4):
                total = 512 * randomness.randrange(1, 40)
                spans, at = [], 0
                while total:
                    length = min(total, randomness.choice([1, 7, 512, 4096, randomness.randrange(1, 9000)]))
                    at += randomness.choice([0, 0, 1, 512, 4096])
                    spans.append((at, length))
                    at += length
                    total -= length
                randomness.shuffle(spans)
                source, sink = Arena(), Arena()
                source.memory[:] = randomness.randbytes(SIZE)
                await lun.write(5, source.cut(spans))
                await lun.read_into(5, sink.cut(spans))
                assert b"".join(sink.cut(spans)) == b"".join(source.cut(spans))

    asyncio.run(body())


# work requests with the command, local invalidations, entries, list bytes, bytes copied, STags, commands
EXACT = {
    ("frwr", "pages"): (3, 1, 8, 64, 0, 1, 1),
    ("indirect", "sectors"): (3, 1, 16, 256, 0, 1, 1),
    ("indirect", "bytes"): (3, 1, 3, 64, 0, 1, 1),
    ("bounce", "bytes"): (3, 1, 8, 64, 8 * PAGE, 1, 1),
    ("bounce_pool", "bytes"): (1, 0, 0, 0, 8 * PAGE, 1, 1),
    ("dma_key", "single"): (1, 0, 0, 0, 0, 1, 1),
    ("mr512", "sectors"): (3, 1, 64, 512, 0, 1, 1),
    ("split", "sectors"): (48, 16, 16, 128, 0, 16, 16),
}


@pytest.mark.parametrize("write", [True, False], ids=["write", "read"])
@pytest.mark.parametrize(("strategy", "shape"), EXACT)
async def test_counts_of_one_transfer_are_exact(strategy: str, shape: str, write: bool) -> None:
    async with serving() as (_, port), await lun_on(port, strategy=strategy, remote_invalidate=False) as lun:
        arena = Arena()
        move = lun.write if write else lun.read_into
        await move(0, arena.cut(SHAPES[shape]))  # warms pools and registers what stays so
        before = lun.counters.copy()
        operations = lun.link.datamover.remote_operations
        await move(0, arena.cut(SHAPES[shape]))
        done = spent(lun, before)
        got = (
            done.work_requests, done.local_invalidations, done.list_entries, done.list_bytes, done.bytes_copied,
            done.stags, done.commands,
        )  # fmt: skip
        assert got == EXACT[strategy, shape]
        assert done.allocations == (8 if strategy == "bounce" else 0)  # pages, of each command as a kernel's are
        assert not done.fallbacks
        assert done.by_strategy == Counter({strategy: done.stags})
        assert (lun.link.datamover.remote_operations or 0) - (operations or 0) == done.commands


async def test_remote_invalidation_saves_a_work_request() -> None:
    async with serving() as (_, port), await lun_on(port, strategy="indirect") as lun:
        arena = Arena()
        before = lun.counters.copy()
        await lun.write(0, arena.cut(SHAPES["bytes"]))
        done = spent(lun, before)
        assert (done.work_requests, done.remote_invalidations, done.local_invalidations) == (2, 1, 0)


async def test_a_small_write_travels_with_its_command() -> None:
    async with serving() as (_, port), await lun_on(port, strategy="immediate", immediate_data=True) as lun:
        before = lun.counters.copy()
        await lun.write(0, [bytes(100), bytes(412)])
        await lun.write(0, bytes(64 << 10))
        await lun.read(0, 1)
        done = spent(lun, before)
        assert done.by_strategy == Counter({"immediate": 1, "frwr": 2})
        assert done.fallbacks == Counter({"oversize": 1, "no_cap": 1})
        assert done.stags == 2


@pytest.mark.parametrize(
    ("strategy", "shape", "reason", "served"),
    [
        ("frwr", "bytes", "unaligned", "bounce"),
        ("mr512", "bytes", "unaligned", "bounce"),
        ("split", "bytes", "unaligned", "bounce"),
        ("dma_key", "bytes", "unaligned", "indirect"),
        ("dma_key", "pages", "unaligned", "frwr"),
    ],
)
async def test_why_a_strategy_did_not_serve(strategy: str, shape: str, reason: str, served: str) -> None:
    async with serving() as (_, port), await lun_on(port, strategy=strategy) as lun:
        before = lun.counters.copy()
        await lun.write(0, Arena().cut(SHAPES[shape]))
        done = spent(lun, before)
        assert (done.fallbacks, done.by_strategy) == (Counter({reason: 1}), Counter({served: 1}))


@pytest.mark.parametrize("strategy", [name for name in STRATEGY_NAMES if "bounce" not in name])
async def test_nothing_is_copied_when_that_is_forbidden(strategy: str) -> None:
    overlapping = [(0, 1000), (500, 36)]
    options = {"strategy": strategy, "no_bounce": True, "immediate_data": True}
    async with serving() as (_, port), await lun_on(port, **options) as lun:
        with pytest.raises(ResourceError, match="no_bounce"):
            await lun.read_into(0, Arena().cut([*overlapping, (8192, 500)]))
        assert lun.counters.bytes_copied == 0
        assert planner_of(lun).in_use == 0
        await lun.write(0, bytes(512))


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
async def test_an_overlapping_destination_gets_the_bytes_in_order(strategy: str) -> None:
    async with serving() as (_, port), await lun_on(port, strategy=strategy, immediate_data=True) as lun:
        data = random.Random(1).randbytes(2048)
        await lun.write(0, data)
        arena = Arena()
        spans = [(0, 1000), (4096, 48), (500, 1000)]
        await lun.read_into(0, arena.cut(spans))
        assert arena.memory[500:1500] == data[1048:2048]
        assert lun.counters.fallbacks["overlap"] == (strategy not in ("bounce", "bounce_pool"))


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
async def test_a_failed_read_copies_nothing_back_and_keeps_no_key(strategy: str) -> None:
    async with serving() as (_, port), await lun_on(port, strategy=strategy, immediate_data=True) as lun:
        arena = Arena()
        arena.memory[:] = b"\xa5" * SIZE
        with pytest.raises(ScsiError):
            await lun.read_into(SIZE // 512 - 1, arena.cut(SHAPES["sectors"]))
        planner = planner_of(lun)
        assert planner.in_use == 0
        assert arena.memory == b"\xa5" * SIZE
        stays = MAX_ARENAS if strategy in ("bounce_pool", "dma_key") else 0
        assert lun.link.datamover.live_keys <= stays


@pytest.mark.parametrize("strategy", ["indirect", "frwr", "bounce", "split", "mr512"])
async def test_commands_wait_their_turn_for_regions(strategy: str) -> None:
    async with serving() as (_, port), await lun_on(port, strategy=strategy, pool_size=2, queue_depth=16) as lun:
        shape = SHAPES["pages" if strategy == "frwr" else "sectors"]
        arenas = [Arena() for _ in range(12)]
        for number, arena in enumerate(arenas):
            arena.memory[:] = bytes([number]) * SIZE
        order: list[int] = []

        async def one(number: int) -> None:
            await lun.write(64 * number, arenas[number].cut(shape))
            order.append(number)

        await asyncio.gather(*map(one, range(12)))
        planner = planner_of(lun)
        assert lun.counters.pool_waits > 0
        assert max(planner.high_water.values()) >= 2
        assert planner.high_water["page_lists"] <= 2
        assert planner.high_water["sg_lists"] <= 2
        assert planner.in_use == 0
        assert sorted(order) == list(range(12))
        for number in range(12):
            assert await lun.read(64 * number, 64) == bytes([number]) * 64 * 512


async def test_a_command_that_waits_for_a_region_can_be_cancelled() -> None:
    async with serving() as (_, port), await lun_on(port, strategy="indirect", pool_size=1) as lun:
        views = Arena().cut(SHAPES["bytes"])
        tasks = [asyncio.create_task(lun.write(0, views)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[1::2]] == [asyncio.CancelledError] * 3
        assert outcomes[::2] == [None] * 3
        assert planner_of(lun).in_use == 0
        assert lun.link.datamover.live_keys == 0


async def test_keys_that_stay_rule_out_that_the_target_invalidates_them() -> None:
    async with serving() as (_, port):
        async with await lun_on(port, strategy="bounce_pool") as lun:
            assert not lun.link.datamover.remote_invalidate
        async with await lun_on(port, strategy="auto") as lun:
            with pytest.raises(UsageError, match="connect with it"):
                planner_of(lun).strategy = "dma_key"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "multi_mr"}, "iSER has one"),
        ({"strategy": "bounce_pool", "no_bounce": True}, "drop one"),
        ({"strategy": "immediate", "immediate_data": False}, "immediate_data"),
        ({"strategy": "best"}, "choose one of auto, dma_key, frwr"),
    ],
)
async def test_options_that_contradict_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        await lun_on(1, **options)


async def test_a_list_made_once_serves_many_commands() -> None:
    async with serving() as (_, port), await lun_on(port) as lun:
        sg = SgList.spans(Arena().memory, SHAPES["bytes"])
        assert sg.shape.sg_class is SgClass.BYTE_GAPPY
        for _ in range(300):  # past the 256 variants of a key
            await lun.write(0, sg)
        assert lun.counters.by_strategy == Counter({"indirect": 300, "frwr": lun.counters.by_strategy["frwr"]})
