"""Numbers and windows: CmdSN, StatSN, MaxCmdSN, order, immediate requests, pings (RFC 7143 section 4.2.2)."""

from __future__ import annotations

from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Failure, Unusual, require
from iser.pdu import FINAL, IMMEDIATE, RESERVED_TAG, NopIn, NopOut, Pdu, Reject, TextRequest, TextResponse, sn_le, sn_lt
from iser.scsi.cdb import read_blocks, test_unit_ready

__all__ = ["CASES"]

_MASK: Final = 0xFFFFFFFF
_MOST: Final = 256  # commands at once
_PING: Final = NopOut(opcode=IMMEDIATE)
_PING_DATA: Final = bytes(range(100))


def _check_numbers(session: Session, first: int) -> None:
    """What must hold for the numbers of every response."""
    highest = session.result.max_cmd_sn
    for _, expected, last in session.numbers:
        require(sn_le(highest, last), f"MaxCmdSN went back from {highest} to {last}")
        require(sn_le(expected, session.cmd_sn), f"ExpCmdSN {expected} is ahead of our next CmdSN {session.cmd_sn}")
        highest = last
    numbers = [stat_sn for stat_sn, _, _ in session.numbers]
    # A target that numbers its responses before it orders them is known; one that uses a number twice is not.
    expected_numbers = [first + i & _MASK for i in range(len(numbers))]
    require(sorted(numbers) == sorted(expected_numbers), f"StatSN are not one after the other: {numbers[:20]}")
    if numbers != expected_numbers:
        raise Unusual("StatSN are complete but come out of order")


async def _numbers(site: Site) -> None:
    async with site.session() as session:
        for _ in range(8):
            await session.good(test_unit_ready())
            await session.alive()
        _check_numbers(session, session.result.stat_sn)


async def _full_window(site: Site) -> None:
    async with site.session() as session:
        await session.alive()
        window = session.window
        require(window > 0, "the window is closed although no command is outstanding")
        for _ in range(3):
            count = min(session.window, _MOST)
            tasks = [session.send_command(read_blocks(0, 1), read=session.read_region(512)) for _ in range(count)]
            for itt in tasks:
                await session.answer(itt)
        await session.alive()
        _check_numbers(session, session.result.stat_sn)
        require(
            session.window == window, f"the window shrank from {window} to {session.window} with nothing outstanding"
        )


async def _beyond(site: Site) -> None:
    async with site.session() as session:
        await session.alive()
        right = session.cmd_sn
        session.cmd_sn = session.max_cmd_sn + 1 & _MASK
        session.send_command(test_unit_ready())
        await session.silence("a command beyond MaxCmdSN")
        session.cmd_sn = right
        await session.good(test_unit_ready())


async def _old(site: Site) -> None:
    async with site.session() as session:
        await session.good(test_unit_ready())
        right = session.cmd_sn
        session.cmd_sn = right - 1 & _MASK
        session.send_command(test_unit_ready())
        await session.silence("a command with a CmdSN that was used already")
        session.cmd_sn = right
        await session.good(test_unit_ready())


async def _gap(site: Site) -> None:
    async with site.session() as session:
        first = session.cmd_sn
        session.cmd_sn = first + 1 & _MASK
        later = session.send_command(test_unit_ready())
        await session.silence("a command that came before its turn")
        arrival = await session.ask(_PING, NopIn)
        seen = arrival.bhs.exp_cmd_sn
        require(seen == first, f"ExpCmdSN is {seen} although {first} has not come")
        session.cmd_sn = first
        earlier = session.send_command(test_unit_ready())
        session.cmd_sn = first + 2 & _MASK
        for itt in (earlier, later):
            answer = await session.answer(itt)
            require(not answer.bhs.status, f"a command of the two ends in status {answer.bhs.status:#04x}")
        await session.good(test_unit_ready())


async def _immediate(site: Site) -> None:
    async with site.session() as session:
        before = (await session.ask(_PING, NopIn)).bhs.exp_cmd_sn
        for _ in range(4):
            after = (await session.ask(_PING, NopIn)).bhs.exp_cmd_sn
            require(after == before, f"immediate requests moved ExpCmdSN from {before} to {after}")
        arrival = await session.ask(NopOut(), NopIn)
        require(arrival.bhs.exp_cmd_sn == (before + 1) & _MASK, "a NOP-Out that is not immediate did not use its CmdSN")


async def _immediate_command(site: Site) -> None:
    async with site.session() as session:
        itt = session.send_command(test_unit_ready(), opcode=0x01 | IMMEDIATE)
        try:
            answer = await session.answer(itt)
        except Failure as failure:
            if "Reject" not in str(failure):
                raise
            raise Unusual(f"an immediate SCSI command is rejected ({failure})") from None
        require(not answer.bhs.status, f"an immediate TEST UNIT READY ends in status {answer.bhs.status:#04x}")
        await session.good(test_unit_ready())


async def _wrap(site: Site) -> None:
    async with site.session(cmd_sn=0xFFFFFFFE) as session:
        for _ in range(6):
            await session.good(test_unit_ready())
        require(session.cmd_sn < 16, "CmdSN did not wrap")
        last = session.numbers[-1]
        require(last[1] == session.cmd_sn, f"ExpCmdSN is {last[1]} behind the wrap, not {session.cmd_sn}")
        require(not sn_lt(last[2], last[1] - 1 & _MASK), f"MaxCmdSN {last[2]} is below ExpCmdSN {last[1]}")


async def _echo(site: Site) -> None:
    async with site.session() as session:
        arrival = await session.ask(_PING, NopIn, _PING_DATA)
        echo = bytes(arrival.pdu.data)
        require(arrival.bhs.ttt == RESERVED_TAG, f"the answer to a ping has TTT {arrival.bhs.ttt:#x}")
        require(_PING_DATA.startswith(echo), "the answer to a ping has other data than the ping")
        if echo != _PING_DATA:
            raise Unusual(f"a ping with {len(_PING_DATA)} bytes comes back with {len(echo)}")


async def _one_way(site: Site) -> None:
    async with site.session() as session:
        one_way = NopOut(opcode=IMMEDIATE, itt=RESERVED_TAG, ttt=RESERVED_TAG, cmd_sn=session.cmd_sn)
        session.send_control(Pdu(one_way))
        await session.silence("a NOP-Out that wants no answer")
        await session.alive()


async def _login_window(site: Site) -> None:
    async with site.session() as session:
        result = session.result
        require(
            not sn_lt(result.max_cmd_sn, result.cmd_sn),
            f"the final login response has MaxCmdSN {result.max_cmd_sn}, below the first CmdSN {result.cmd_sn}",
        )


async def _text_numbers(site: Site) -> None:
    async with site.session() as session:
        session.send(TextRequest(opcode=0x04 | IMMEDIATE, flags=FINAL), b"SendTargets=\0")
        arrival = await session.anything()
        require(arrival and isinstance(arrival.bhs, TextResponse | Reject), "a Text Request gets no answer")
        await session.alive()
        _check_numbers(session, session.result.stat_sn)


CASES: Final = (
    Case("login-window", "the login leaves the window open", "RFC 7143 4.2.2.1", _login_window),
    Case("numbers", "StatSN counts up, MaxCmdSN never goes back", "RFC 7143 4.2.2", _numbers),
    Case("full-window", "as many commands at once as the window has", "RFC 7143 4.2.2.1", _full_window),
    Case("beyond-window", "a command beyond MaxCmdSN is ignored", "RFC 7143 4.2.2.1", _beyond),
    Case("used-number", "a command with a used CmdSN is ignored", "RFC 7143 4.2.2.1", _old),
    Case("gap", "a command that comes early waits for its turn", "RFC 7143 4.2.2.1", _gap),
    Case("immediate", "immediate requests use no CmdSN", "RFC 7143 4.2.2.1", _immediate),
    Case("immediate-command", "an immediate SCSI command", "RFC 7143 11.3", _immediate_command),
    Case("wrap", "CmdSN wraps to 0", "RFC 7143 4.2.2.1, RFC 1982", _wrap),
    Case("ping", "NOP-In returns the data of the NOP-Out", "RFC 7143 11.18, 11.19", _echo),
    Case("text", "the answer to a text takes its StatSN", "RFC 7143 11.11", _text_numbers),
    Case("one-way-ping", "a NOP-Out without a tag gets no answer", "RFC 7143 11.18", _one_way, risky=True),
)
