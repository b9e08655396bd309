"""Our initiator over the embedded RNIC, on this machine, with LIO over siw, in the guest."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar, Final

import pytest

from initiator.conformance import survey
from initiator.url import Url
from iser.errors import ConnectionFailed, ConnectionLost, LoginError
from iser.login import InitiatorLogin
from iser.login.auth import AUTH_METHOD
from iser.login.text import NONE
from iser.pdu import Stage
from tests.interop.answers import DECLARATION, answers
from tests.interop.initiator_row import InitiatorRow
from tests.interop.lists import check_blocks
from tests.interop.load import BOTH_WAYS, WRONG, all_lost, run_load
from tests.interop.matrix import Fabric, Row
from tests.interop.peers.lio import Lio
from tests.interop.recorder import Notes, NotShown, peer_fault
from tests.lab import CommandFailed, Machine

_PATIENCE: Final = 20.0  # seconds


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

    @peer_fault("LIO 6.1", "a login that is broken off between two requests is never over: its target takes no other")
    async def test_lio_never_lets_go_of_a_login_that_was_broken_off(
        self, lio: Lio, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await asyncio.to_thread(lio.guard)
        monkeypatch.setattr(InitiatorLogin, "break_off", lambda login: None)  # what works round it
        with pytest.raises(LoginError, match="did not prove"):
            await lio.connect_guarded(**BOTH_WAYS | {"target_password": WRONG})
        start = time.monotonic()
        with pytest.raises((ConnectionFailed, ConnectionLost, LoginError)) as caught:
            await lio.connect_guarded(**BOTH_WAYS, login_timeout=_PATIENCE)
        took = time.monotonic() - start
        assert took > _PATIENCE / 2, caught.value
        notes.add(f"the next one ends after {took:.0f} seconds with {type(caught.value).__name__}; LIO gives it 15")

    @peer_fault("LIO 6.1", "refuses a login request without text that asks for the next stage")
    async def test_lio_refuses_a_request_without_text(self, lab: Machine, notes: Notes) -> None:
        lio = Lio(lab, "lio-empty", 3296)  # one of its own, as it may take no more logins
        await asyncio.to_thread(lio.start)
        url = Url.parse(f"iser://{lio.portal}/{lio.name}/{lio.lun}")
        site = await survey(url, url.connect_options, lio.settle_seconds)
        async with site.talk() as talk:
            response = await talk.exchange([*talk.introduction(), (AUTH_METHOD, NONE)], Stage.SECURITY, None)
            assert response
            assert (response.status_class, talk.said.pairs[AUTH_METHOD]) == (0, NONE)
            response = await talk.exchange([], Stage.SECURITY, Stage.OPERATIONAL)
            notes.add(f"status {talk.said.status:04x}" if response else "it closes the connection")
            assert response is None or response.status_class

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
