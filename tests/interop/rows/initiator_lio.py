"""Our initiator over the embedded RNIC, on this machine, with LIO over siw, in the guest."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from iser.errors import ConnectionLost
from tests.interop.answers import DECLARATION, answers
from tests.interop.initiator_row import InitiatorRow
from tests.interop.lists import check_blocks
from tests.interop.load import all_lost, run_load
from tests.interop.matrix import Fabric, Row
from tests.interop.peers.lio import Lio
from tests.interop.recorder import Notes, NotShown, peer_fault
from tests.lab import CommandFailed, Machine


class TestLio(InitiatorRow):
    """Features, and the faults of LIO that we work round."""

    row: ClassVar = Row("initiator, softiwarp", "LIO ib_isert", Fabric.IWARP)

    @pytest.fixture
    def peer(self, lio: Lio) -> Lio:
        """Serving."""
        return lio

    @pytest.fixture
    def victim(self, lab: Machine) -> Lio:
        """One of its own: when it is disabled LIO may hang, for what has been before."""
        victim = Lio(lab, "lio-killed", 3268)
        victim.start()
        return victim

    @peer_fault("LIO 6.1", "answers a NOP-Out without the data that it should echo")
    async def test_lio_echoes_no_ping_data(self, lio: Lio) -> None:
        async with await lio.connect() as lun:
            assert await lun.session.nop(b"echo this") == b""

    @peer_fault("LIO 6.1", "agrees to a TargetRecvDataSegmentLength of more than its buffers hold")
    async def test_lio_agrees_to_more_than_it_can_receive(self, lio: Lio) -> None:
        assert (await answers(lio, TargetRecvDataSegmentLength="262144"))["TargetRecvDataSegmentLength"] == "262144"

    @peer_fault("LIO 6.1", "leaves out answers that an offer forces")
    async def test_lio_leaves_out_answers(self, lio: Lio, notes: Notes) -> None:
        found = await answers(lio, InitialR2T="Yes", DataPDUInOrder="Yes", DataSequenceInOrder="Yes")
        missing = {"InitialR2T", "DataPDUInOrder", "DataSequenceInOrder"} - found.keys()
        assert missing
        notes.add(", ".join(sorted(missing)))

    @peer_fault("LIO 6.1", "answers NotUnderstood to a declaration, which wants no answer")
    async def test_lio_answers_a_declaration(self, lio: Lio) -> None:
        assert (await answers(lio, **DECLARATION)).get(*DECLARATION) == "NotUnderstood"

    @peer_fault(
        "LIO 6.1 over siw",
        "disabling the portal group may hang in target_wait_for_cmds after a connection ended under I/O",
    )
    async def test_lio_may_hang_when_disabled_after_a_lost_connection(self, lab: Machine, notes: Notes) -> None:
        lio = Lio(lab, "lio-cut", 3266)  # one of its own, which is lost afterwards
        lio.start()
        lun = await lio.connect(immediate_data=False)
        load = run_load(lun)
        await asyncio.sleep(0.2)
        lun.link.datamover.abort(ConnectionLost("ended by the test"))
        await all_lost(load, lun)
        async with await lio.connect() as lun:
            await check_blocks(lun, 64 << 10, 0, seed=14)
        notes.add("new logins work")
        try:
            await lio.kill()
        except CommandFailed:
            return
        raise NotShown("")
