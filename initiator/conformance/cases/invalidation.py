"""Remote invalidation: the right key, and only with SCSI Responses that have one (RFC 7145 7.3.2; IBTA annex A12)."""

from __future__ import annotations

from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.cases.data import fresh
from initiator.conformance.probe import Answer
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Skipped, Unusual, require
from iser.pdu import FINAL, IMMEDIATE, LogoutRequest, LogoutResponse, NopIn, NopOut
from iser.pdu.bhs import TaskManagementRequest, TaskManagementResponse
from iser.scsi.cdb import inquiry, read_blocks, test_unit_ready, write_blocks

__all__ = ["CASES"]

_NOT_OFFERED: Final = bytes((0xC0, 0, 0, 0))


def _agreed(site: Site, session: Session) -> None:
    if not session.invalidation:
        raise Skipped("our device cannot have its keys invalidated by a peer")
    if not site.offers_invalidation(session):
        raise Skipped(f"the private data of the target ({session.offered.hex() or 'none'}) does not offer it")


def _check(answer: Answer, key: int, what: str) -> None:
    found = answer.invalidated
    if not found:
        raise Unusual(f"the target agreed to invalidate keys, and did not with {what}")
    require(found == key, f"the response of {what} invalidates {found:#010x}, not the command's key {key:#010x}")


async def _reads(site: Site) -> None:
    async with site.session() as session:
        _agreed(site, session)
        for cdb in (read_blocks(0, 1), inquiry(36)):
            region = session.read_region(site.block_size)
            _check(await session.good(cdb, read=region), region.key, f"command {cdb[0]:#04x}")


async def _failed(site: Site) -> None:
    async with site.session() as session:
        _agreed(site, session)
        region = session.read_region(site.block_size)
        answer = await session.command(read_blocks(site.blocks, 1), read=region)
        require(answer.bhs.status, "a read behind the last block ends in GOOD")
        _check(answer, region.key, "a read that failed")


async def _writes(site: Site) -> None:
    async with site.session() as session:
        _agreed(site, session)
        region = session.write_region(fresh(4 * site.block_size))
        _check(await session.good(write_blocks(0, 4), write=region), region.key, "a write")


async def _only_tagged(site: Site) -> None:
    async with site.session() as session:
        _agreed(site, session)
        idle = session.read_region(512)
        await _no_invalidation(session)
        require(session.live_keys == 1, f"a key that no command used ({idle.key:#010x}) is not valid any more")


async def _no_invalidation(session: Session) -> None:
    """Nothing that has no key of its own may come with an invalidation."""
    answer = await session.good(test_unit_ready())
    require(not answer.invalidated, f"the response of a command without a key invalidates {answer.invalidated:#010x}")
    function = TaskManagementRequest(opcode=0x02 | IMMEDIATE, flags=FINAL | 1, lun=session.lun, referenced_task_tag=77)
    for bhs, kind in (
        (NopOut(opcode=IMMEDIATE), NopIn),
        (function, TaskManagementResponse),
        (LogoutRequest(cid=1), LogoutResponse),
    ):
        arrival = await session.ask(bhs, kind)
        require(not arrival.invalidated, f"a {kind.__name__} invalidates {arrival.invalidated:#010x}")


async def _not_offered(site: Site) -> None:
    async with site.session(private_data=_NOT_OFFERED) as session:
        region = session.read_region(site.block_size)
        answer = await session.good(read_blocks(0, 1), read=region)
        require(not answer.invalidated, "a key is invalidated although the initiator did not offer it")
        await _no_invalidation(session)


async def _silent(site: Site) -> None:
    async with site.session(private_data=b"") as session:
        region = session.read_region(site.block_size)
        answer = await session.good(read_blocks(0, 1), read=region)
        if answer.invalidated:
            raise Unusual("a key is invalidated although the initiator sent no private data")


async def _many(site: Site) -> None:
    async with site.session() as session:
        _agreed(site, session)
        regions = [session.read_region(site.block_size) for _ in range(min(16, session.window))]
        tasks = [session.send_command(read_blocks(0, 1), read=region) for region in regions]
        for itt, region in zip(tasks, regions, strict=True):
            _check(await session.answer(itt), region.key, "a read among others")
        require(session.live_keys == 0, f"{session.live_keys} keys are valid after all their responses came")


CASES: Final = (
    Case("reads", "a response invalidates the read's key", "RFC 7145 7.3.2", _reads),
    Case("failed", "also that of a command that fails", "RFC 7145 7.3.2", _failed),
    Case("many", "each response its own command's key", "RFC 7145 7.3.2", _many),
    Case("writes", "a response invalidates the write's key", "RFC 7145 7.3.2", _writes, destructive=True),
    Case("only-tagged", "nothing else invalidates a key", "RFC 7145 7.3.2", _only_tagged),
    Case("not-offered", "none where the initiator does not offer it", "IBTA annex A12", _not_offered),
    Case("no-private-data", "none where the initiator says nothing", "IBTA annex A12", _silent),
)
