"""Our initiator over the embedded RNIC, on this machine, with tgt over siw, in the guest."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import pytest

from initiator.establish import open_session
from initiator.options import ConnectOptions
from initiator.session import Session
from initiator.url import Portal
from iser.errors import CommandTimeout, ConnectionFailed, ConnectionLost, LoginError
from iser.pdu import LoginResponse, Pdu, TaskManagementFunction
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.scsi import cdb as cdbs
from iser.scsi.lun import encode_lun
from tests.interop.answers import DECLARATION, answers
from tests.interop.initiator_row import InitiatorRow
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.tgt import Tgt
from tests.interop.recorder import Notes, NotShown, peer_fault
from tests.lab import Machine

_TRIES: Final = 20
_STALL_SECONDS: Final = 3.0
_RESET: Final = TaskManagementFunction.LOGICAL_UNIT_RESET
_CLOSES: Final = "tgt closes the connection on this function"


class TestTgt(InitiatorRow):
    """Features, and the faults of tgt that we work round."""

    row = Row("initiator, softiwarp", "tgt iser", Fabric.IWARP)
    not_offered: ClassVar = {Feature.WARM_RESET: _CLOSES, Feature.COLD_RESET: _CLOSES}

    @pytest.fixture
    def peer(self, tgt: Tgt) -> Tgt:
        """Serving."""
        return tgt

    @peer_fault(
        "tgt 1.0.85", "a command that comes soon after the login response finds tgt still in login: it hangs up"
    )
    async def test_tgt_takes_no_command_right_after_login(
        self, tgt: Tgt, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("initiator.establish.settle_time", lambda login: 0.0)  # without what works round it
        lost = 0
        for _ in range(_TRIES):
            link = await tgt.log_in()
            try:
                await link.session.execute(encode_lun(tgt.lun), cdbs.test_unit_ready())
            except ConnectionLost:
                lost += 1
            await link.session.close()
        notes.add(f"{lost} of {_TRIES} first commands")
        if not lost:
            raise NotShown("")

    @peer_fault(
        "tgt 1.0.85", "its login response counts the login as a command: the window is closed (MaxCmdSN < ExpCmdSN)"
    )
    async def test_tgt_login_response_closes_the_window(self, tgt: Tgt, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[LoginResponse] = []
        original = Session.control_notify

        def spy(session: Session, pdu: Pdu) -> None:
            if isinstance(pdu.bhs, LoginResponse):
                seen.append(pdu.bhs)
            original(session, pdu)

        monkeypatch.setattr(Session, "control_notify", spy)
        async with await tgt.connect() as lun:
            first = lun.session.login.cmd_sn
        assert (seen[-1].exp_cmd_sn, seen[-1].max_cmd_sn) == (first + 1, first)

    @peer_fault("tgt 1.0.85", "answers NotUnderstood to a declaration, which wants no answer")
    async def test_tgt_answers_a_declaration(self, tgt: Tgt) -> None:
        assert (await answers(tgt, **DECLARATION)).get(*DECLARATION) == "NotUnderstood"

    @peer_fault("siw 6.1", "as responder, it may not notice a first message until more bytes arrive")
    async def test_siw_misses_a_first_message(self, tgt: Tgt, notes: Notes) -> None:
        options = ConnectOptions(**tgt.options).with_changes({"login_timeout": _STALL_SECONDS})
        hasty = SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0))
        stalled = 0
        for _ in range(_TRIES):
            try:
                link = await open_session(Portal.parse(tgt.portal), tgt.name, options, hasty)
            except ConnectionFailed:
                stalled += 1
            else:
                await link.session.close()
        notes.add(f"{stalled} of {_TRIES} logins stalled")
        if not stalled:
            raise NotShown("")

    @peer_fault("tgt 1.0.85", "a command of more than 512 KiB closes the connection; no VPD page tells the limit")
    async def test_tgt_takes_512_kib_at_once(self, tgt: Tgt) -> None:
        async with await tgt.connect() as lun:
            assert lun.max_transfer == 512 << 10
            with pytest.raises(ConnectionLost):
                await lun.execute(cdbs.read_blocks(0, 2048), data_in=[bytearray(1 << 20)])

    @peer_fault("tgt 1.0.85", "its iSER port cannot be chosen: the option is refused for an errno of something else")
    async def test_tgt_port_option(self, lab: Machine) -> None:
        result = await lab.arun("timeout 5 tgtd -f -C 7 --iscsi portal=127.0.0.1:3299 --iser port=3298", check=False)
        assert "invalid port supplied" in result.out + result.err

    @peer_fault("tgt 1.0.85", "over iSER an initiator whose address may log in must be listed by name, too")
    async def test_tgt_wants_the_name_of_each_initiator(self, tgt: Tgt) -> None:
        with pytest.raises(LoginError, match="0203"):
            await tgt.connect(initiator_name="iqn.2026-11.lab:somebody")

    @peer_fault(
        "tgt 1.0.85", "it keeps the commands of a connection that was lost; LOGICAL UNIT RESET waits for them, for ever"
    )
    async def test_tgt_never_answers_a_reset_after_a_lost_connection(
        self, tgt: Tgt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("initiator.commands.ABORT_TIMEOUT", 5.0)
        try:
            await self._lose_connection(tgt)
            async with await tgt.connect() as lun:
                code = await lun.session.manage_tasks(_RESET, encode_lun(tgt.lun))
            raise NotShown(f"it answered {code}")
        except CommandTimeout:
            pass
        finally:
            await asyncio.to_thread(tgt.restart)

    @staticmethod
    async def _lose_connection(tgt: Tgt) -> None:
        lun = await tgt.connect()
        load = [asyncio.ensure_future(lun.read(number * 128, 128)) for number in range(32)]
        await asyncio.sleep(0)
        lun.link.datamover.abort(ConnectionLost("ended by the test"))
        await asyncio.gather(*load, return_exceptions=True)
        await lun.close()
