"""The tests of our initiator against a target; a row is a subclass with ``row`` and the fixture ``peer``."""

from __future__ import annotations

import asyncio
import random
from typing import ClassVar, Final

import pytest

from iser.errors import ConnectionLost
from iser.pdu import TaskManagementFunction, TaskManagementResponseCode
from iser.sg import SgClass
from tests.interop.lists import check_blocks, check_lists
from tests.interop.load import DEPTH, REFUSALS, all_lost, cancel_writes, check_chap, end_reads, run_load
from tests.interop.matrix import Feature, Row
from tests.interop.peers.base import TargetPeer
from tests.interop.recorder import Notes, NotOffered, feature
from tests.interop.strategies import STRATEGY_NAMES, check_strategy

__all__ = ["InitiatorRow"]

SIZES: Final = (512, 4096, 64 << 10, 512 << 10, 1 << 20, 8 << 20)
_LIST_SIZES: Final = (16 << 10, 128 << 10)


class InitiatorRow:
    """Features in the order in which they build on each other; the last ones disturb the peer."""

    row: ClassVar[Row]
    #: What the peer does not offer, and who says so; task management is tried anyway, and may lose the connection.
    not_offered: ClassVar[dict[Feature, str]] = {}

    @pytest.fixture
    def victim(self, peer: TargetPeer) -> TargetPeer:
        """The peer that is killed."""
        return peer

    @pytest.fixture(autouse=True)
    def _offered(self, request: pytest.FixtureRequest) -> None:
        mark = request.node.get_closest_marker("feature")
        self.reason = self.not_offered.get(mark.args[0]) if mark else None

    def _require_offered(self) -> None:
        if self.reason:
            raise NotOffered(self.reason)

    @feature(Feature.DISCOVERY)
    async def test_discovery_names_the_target(self, peer: TargetPeer) -> None:
        records = await peer.discover()
        assert peer.name in [record.name for record in records]

    @feature(Feature.LOGIN)
    async def test_login_and_logout(self, peer: TargetPeer, notes: Notes) -> None:
        lun = await peer.connect()
        params = lun.session.login.params
        notes.add(
            f"ImmediateData={_yes(params.immediate_data)}, InitialR2T={_yes(params.initial_r2t)},"
            f" TargetRecvDataSegmentLength={params.target_recv_data_segment_length}"
        )
        await lun.close()

    @feature(Feature.CHAP)
    async def test_chap_both_ways(self, peer: TargetPeer, notes: Notes) -> None:
        await asyncio.to_thread(peer.guard)
        notes.add(await check_chap(peer.connect_guarded, both_only=peer.must_prove_itself, tries=peer.login_tries))

    @feature(Feature.CAPACITY)
    async def test_the_capacity_is_what_the_peer_was_given(self, peer: TargetPeer) -> None:
        async with await peer.connect() as lun:
            assert lun.capacity.blocks * lun.capacity.block_size == peer.size

    @pytest.mark.parametrize("strategy", ["indirect", "bounce"])
    @pytest.mark.parametrize("kind", [pytest.param(k, marks=feature(Feature(f"{k.value} lists"))) for k in SgClass])
    async def test_lists_of_each_class(self, peer: TargetPeer, kind: SgClass, strategy: str) -> None:
        async with await peer.connect(strategy=strategy, immediate_data=False) as lun:
            before = lun.counters.copy()
            await check_lists(lun, kind, _LIST_SIZES, seed=7)
            spent = lun.counters.since(before)
            assert spent.stags == spent.commands, "a command took more than one STag"
            assert lun.link.datamover.live_keys == 0

    @feature(Feature.STRATEGIES)
    @pytest.mark.parametrize("strategy", STRATEGY_NAMES)
    async def test_each_strategy(self, peer: TargetPeer, strategy: str) -> None:
        served = await check_strategy(peer.connect, strategy)
        assert strategy in (*served, "auto", "immediate")

    @feature(Feature.IMMEDIATE_DATA)
    @pytest.mark.parametrize("kind", list(SgClass))
    async def test_small_writes_travel_with_their_command(self, peer: TargetPeer, kind: SgClass) -> None:
        async with await peer.connect(immediate_data=True) as lun:
            if not lun.session.login.params.immediate_data:
                raise NotOffered("the peer answers ImmediateData=No at login")
            before = lun.counters.copy()
            await check_lists(lun, kind, (8192,), seed=8)
            spent = lun.counters.since(before)
            assert spent.stags == spent.commands // 2, "the writes took STags"  # the other half are reads

    @feature(Feature.UNSOLICITED_DATA)
    async def test_unsolicited_data(self, peer: TargetPeer) -> None:
        async with await peer.connect() as lun:
            if lun.session.login.params.initial_r2t:
                raise NotOffered("both sides say InitialR2T=Yes at login")
            await check_blocks(lun, 64 << 10, 0, seed=9)

    @feature(Feature.SIZES)
    async def test_sizes(self, peer: TargetPeer, notes: Notes) -> None:
        async with await peer.connect(immediate_data=False) as lun:
            for size in SIZES:
                await check_blocks(lun, size, 1000, seed=size)
            largest = max(size for size in SIZES if size <= lun.max_transfer)
            if largest < SIZES[-1]:
                notes.add(f"larger ones than {lun.max_transfer >> 10} KiB, the peer's limit, as several commands")

    @feature(Feature.QUEUE_DEPTH)
    async def test_queue_depth_32(self, peer: TargetPeer) -> None:
        async with await peer.connect(queue_depth=DEPTH) as lun:
            deepest = 0

            async def one(number: int) -> None:
                nonlocal deepest
                size = random.Random(number).choice((512, 4096, 20480, 65536))
                writing = asyncio.ensure_future(check_blocks(lun, size, number * 128, seed=number))
                await asyncio.sleep(0)
                deepest = max(deepest, len(lun.session.outstanding))
                await writing

            await asyncio.gather(*(one(number) for number in range(8 * DEPTH)))
            assert deepest == DEPTH

    @feature(Feature.REMOTE_INVALIDATION)
    async def test_remote_invalidation(self, peer: TargetPeer) -> None:
        for wanted in (False, True):
            async with await peer.connect(remote_invalidate=wanted, immediate_data=False) as lun:
                await check_lists(lun, SgClass.BYTE_GAPPY, (64 << 10,), seed=10)
                assert lun.link.datamover.live_keys == 0
                if wanted and not lun.link.datamover.remote_invalidate:
                    raise NotOffered("the peer's private data does not agree to Send with Invalidate")
                assert lun.counters.remote_invalidations == (lun.counters.stags if wanted else 0)

    @feature(Feature.NOP)
    async def test_nop(self, peer: TargetPeer, notes: Notes) -> None:
        async with await peer.connect() as lun:
            for data in (b"", b"ping data of 20 byte"):
                echo = await lun.session.nop(data)
            notes.add("echoes the data" if echo == data else f"answers with {len(echo)} bytes of data")
            await check_blocks(lun, 4096, 0, seed=11)

    # Task management

    @feature(Feature.ABORT_TASK)
    async def test_cancelling_a_command_aborts_it(self, peer: TargetPeer) -> None:
        self._require_offered()
        async with await peer.connect(immediate_data=False) as lun:
            await cancel_writes(lun)

    @pytest.mark.parametrize(
        "function",
        [
            pytest.param(TaskManagementFunction.ABORT_TASK_SET, marks=feature(Feature.ABORT_TASK_SET)),
            pytest.param(TaskManagementFunction.CLEAR_TASK_SET, marks=feature(Feature.CLEAR_TASK_SET)),
            pytest.param(TaskManagementFunction.LOGICAL_UNIT_RESET, marks=feature(Feature.LUN_RESET)),
            pytest.param(TaskManagementFunction.TARGET_WARM_RESET, marks=feature(Feature.WARM_RESET)),
            pytest.param(TaskManagementFunction.TARGET_COLD_RESET, marks=feature(Feature.COLD_RESET)),
        ],
    )
    async def test_task_management_under_load(
        self, peer: TargetPeer, function: TaskManagementFunction, notes: Notes
    ) -> None:
        async with await peer.connect(peer.slow_lun, queue_depth=DEPTH) as lun:
            try:
                code, ended = await end_reads(lun, peer.slow_lun, function)
            except ConnectionLost:
                if self.reason is None:
                    raise
                await self._works_again(peer)
                raise NotOffered(self.reason) from None
            if code in REFUSALS:
                raise NotOffered(f"the peer answers {TaskManagementResponseCode(code).name}")
            assert code == TaskManagementResponseCode.FUNCTION_COMPLETE
            because = peer.spares_commands
            notes.add(f"ended {ended} of {DEPTH} running reads{because and ': '}{because}")
            assert ended == (0 if because else DEPTH)
        assert lun.link.datamover.live_keys == 0
        await self._works_again(peer)

    @staticmethod
    async def _works_again(peer: TargetPeer) -> None:
        async with await peer.connect() as lun:
            await check_blocks(lun, 64 << 10, 0, seed=14)

    # The end of a connection

    @feature(Feature.LOGOUT)
    async def test_many_logins_and_logouts(self, peer: TargetPeer) -> None:
        for number in range(10):
            lun = await peer.connect()
            await check_blocks(lun, 4096, 0, seed=number)
            await lun.close()
            assert lun.session.ended == "the session was closed"

    @feature(Feature.RECONNECT)
    async def test_our_connection_dies_mid_io_and_a_new_one_works(self, peer: TargetPeer, notes: Notes) -> None:
        lun = await peer.connect(immediate_data=False)
        load = run_load(lun, writing=not peer.cut_note)
        notes.add(peer.cut_note)
        await asyncio.sleep(0.2)
        lun.link.datamover.abort(ConnectionLost("ended by the test"))
        await all_lost(load, lun)
        await self._works_again(peer)

    @feature(Feature.PEER_KILLED)
    async def test_the_peer_is_killed_mid_io_and_comes_back(self, victim: TargetPeer, notes: Notes) -> None:
        lun = await victim.connect(immediate_data=False)
        load = run_load(lun, writing=not victim.cut_note)
        notes.add(victim.cut_note)
        await asyncio.sleep(0.2)
        await victim.kill()
        try:
            await all_lost(load, lun)
        finally:
            await asyncio.to_thread(victim.start)
        await self._works_again(victim)


def _yes(value: object) -> str:
    return "Yes" if value else "No"
