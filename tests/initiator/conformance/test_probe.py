from __future__ import annotations

import pytest

from initiator.conformance import Failure
from iser.pdu import IMMEDIATE, NopIn, NopOut, ScsiResponse, TextResponse
from iser.scsi import cdb
from tests.initiator.conformance.bad import site_of


async def test_an_answer_tells_what_the_region_held_and_what_was_invalidated() -> None:
    async with site_of() as site, site.session() as session:
        region = session.read_region(64, skew=3)
        before = session.operations
        answer = await session.good(cdb.inquiry(36), read=region)
        assert region.base & 4095 == 3
        assert answer.data[36:] == b"\xa5" * 28
        assert answer.invalidated == region.key
        assert before is not None
        assert answer.operations is not None
        assert answer.operations > before


async def test_what_comes_for_another_task_stays_for_later() -> None:
    async with site_of() as site, site.session() as session:
        first = session.send_command(cdb.test_unit_ready())
        second = session.send_command(cdb.test_unit_ready())
        assert (await session.answer(second)).bhs.itt == second
        assert (await session.answer(first)).bhs.itt == first


async def test_what_does_not_come_is_a_failure() -> None:
    async with site_of() as site, site.session() as session:
        with pytest.raises(Failure, match="no TextResponse: nothing came in time"):
            await session.expect(TextResponse)


async def test_a_reject_in_place_of_an_answer_is_a_failure_with_its_reason() -> None:
    async with site_of() as site, site.session() as session:
        with pytest.raises(Failure, match="instead of a ScsiResponse came a Reject, reason 0x04 PROTOCOL_ERROR"):
            await session.answer(session.send_command(cdb.read_blocks(0, 1), flags=0x40, edtl=512))


async def test_the_end_of_the_connection_is_a_failure_with_its_reason() -> None:
    async with site_of() as site, site.session() as session:
        session.send_bytes(b"", b"\xf0")
        with pytest.raises(Failure, match="no NopIn: the connection ended"):
            await session.ask(NopOut(opcode=IMMEDIATE), NopIn)
        assert await session.closed()


async def test_a_bad_status_is_a_failure_of_good_only() -> None:
    async with site_of() as site, site.session() as session:
        answer = await session.command(bytes((0xFF,)))
        assert (answer.bhs.status, answer.sense[2]) == (2, 5)
        with pytest.raises(Failure, match="status 0x02"):
            await session.good(bytes((0xFF,)))


async def test_silence_is_broken_by_a_pdu_and_by_the_end() -> None:
    async with site_of() as site, site.session() as session:
        await session.silence("nothing")
        session.send_command(cdb.test_unit_ready())
        with pytest.raises(Failure, match="a command brought a ScsiResponse"):
            await session.silence("a command")
        session.send_bytes(b"", b"\xf0")
        with pytest.raises(Failure, match="garbage ended the connection"):
            await session.silence("garbage")


async def test_a_session_leaves_no_keys_and_no_connection() -> None:
    async with site_of() as site:
        async with site.session() as session:
            session.read_region(4096)
            assert session.live_keys == 1
        assert session.live_keys == 0
        assert isinstance(await _after(session), Exception)


async def _after(session: object) -> object:
    try:
        session.send_bytes(b"")  # type: ignore[attr-defined]
    except Exception as error:
        return error
    return ScsiResponse
