"""Residual counts: what the initiator expects (EDTL) against what the CDB moves (RFC 7143 section 11.4.5)."""

from __future__ import annotations

from typing import Any, Final

from initiator.conformance.case import Case
from initiator.conformance.cases.data import fresh
from initiator.conformance.probe import Answer
from initiator.conformance.site import Site
from initiator.conformance.verdict import Failure, Unusual, require
from iser.pdu import RESPONSE_BIDI_OVERFLOW, RESPONSE_BIDI_UNDERFLOW, RESPONSE_OVERFLOW, RESPONSE_UNDERFLOW
from iser.scsi.cdb import inquiry, read_blocks, read_capacity_10, test_unit_ready, write_blocks

__all__ = ["CASES"]

_FILL: Final = 0xA5


def _check(answer: Answer, flags: int, residual: int, what: str) -> None:
    bhs = answer.bhs
    names = {0: "neither", RESPONSE_OVERFLOW: "overflow", RESPONSE_UNDERFLOW: "underflow"}
    found = bhs.flags & (RESPONSE_OVERFLOW | RESPONSE_UNDERFLOW)
    require(
        not bhs.flags & (RESPONSE_BIDI_OVERFLOW | RESPONSE_BIDI_UNDERFLOW) and not bhs.bidi_residual,
        f"{what}: the bidirectional residual is set",
    )
    require(
        found == flags and (not flags or bhs.residual == residual),
        f"{what}: the response says {names.get(found, 'both')} {bhs.residual}; it is {names[flags]} {residual}",
    )
    require(bhs.exp_data_sn == 0 or bhs.status, f"{what}: ExpDataSN is {bhs.exp_data_sn} where no Data-In was sent")


async def _exact(site: Site) -> None:
    async with site.session() as session:
        answer = await session.good(read_blocks(0, 1), read=session.read_region(site.block_size))
        _check(answer, 0, 0, "a read of what was expected")
        answer = await session.good(read_capacity_10(), read=session.read_region(8))
        _check(answer, 0, 0, "READ CAPACITY with EDTL 8")


async def _none(site: Site) -> None:
    async with site.session() as session:
        _check(await session.good(test_unit_ready()), 0, 0, "TEST UNIT READY with EDTL 0")


async def _control_under(site: Site) -> None:
    async with site.session() as session:
        answer = await session.good(inquiry(36), read=session.read_region(512))
        _check(answer, RESPONSE_UNDERFLOW, 476, "INQUIRY of 36 bytes with EDTL 512")
        require(answer.data[36:] == bytes((_FILL,)) * 476, "INQUIRY of 36 bytes wrote more than that")


async def _control_over(site: Site) -> None:
    async with site.session() as session:
        region = session.read_region(64)
        answer = await session.good(inquiry(36), read=region, edtl=16)
        require(answer.data[16:] == bytes((_FILL,)) * 48, "INQUIRY wrote beyond EDTL 16")
        _check(answer, RESPONSE_OVERFLOW, 20, "INQUIRY of 36 bytes with EDTL 16")


async def _read_under(site: Site) -> None:
    async with site.session() as session:
        size = site.block_size
        answer = await session.good(read_blocks(0, 1), read=session.read_region(2 * size))
        _check(answer, RESPONSE_UNDERFLOW, size, f"a read of one block with EDTL {2 * size}")
        require(answer.data[size:] == bytes((_FILL,)) * size, "a read of one block wrote more than that")


async def _read_over(site: Site) -> None:
    async with site.session() as session:
        size = site.block_size
        region = session.read_region(2 * size)
        answer = await session.command(read_blocks(0, 2), read=region, edtl=size)
        require(answer.data[size:] == bytes((_FILL,)) * size, "a read of two blocks wrote beyond the EDTL of one")
        if answer.bhs.status:
            raise Unusual(f"a read of two blocks with the EDTL of one ends in status {answer.bhs.status:#04x}")
        _check(answer, RESPONSE_OVERFLOW, size, f"a read of two blocks with EDTL {size}")


async def _nothing_moved(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(test_unit_ready(), read=session.read_region(512))
        require(answer.data == bytes((_FILL,)) * 512, "TEST UNIT READY wrote data")
        if answer.bhs.status:
            sense = answer.sense[:14].hex()
            raise Unusual(f"TEST UNIT READY with EDTL 512 ends in status {answer.bhs.status:#04x}, sense {sense}")
        _check(answer, RESPONSE_UNDERFLOW, 512, "TEST UNIT READY with EDTL 512")


async def _failed(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(read_blocks(site.blocks, 1), read=session.read_region(site.block_size))
        require(answer.bhs.status, "a read behind the last block ends in GOOD")
        if not answer.bhs.flags & (RESPONSE_UNDERFLOW | RESPONSE_OVERFLOW):
            raise Unusual(f"a read that moved none of its {site.block_size} bytes has no residual")
        _check(answer, RESPONSE_UNDERFLOW, site.block_size, "a read that moved nothing")


def _write(blocks: int, expected: int) -> Any:
    async def run(site: Site) -> None:
        async with site.session() as session:
            size = site.block_size
            before = await session.read(0, 4)
            data = fresh(expected * size)
            region = session.write_region(data)
            what = f"a write of {blocks} block(s) with EDTL {expected * size}"
            answer = await session.command(write_blocks(0, blocks), write=region)
            after = await session.read(0, 4)
            last = min(blocks, expected) * size
            require(after[last:] == before[last:], f"{what} stored more than it had")
            if answer.bhs.status:
                require(after == before, f"{what} fails and has stored something")
                raise Unusual(f"{what} ends in status {answer.bhs.status:#04x}, sense {answer.sense[:18].hex()}")
            require(after[:last] == data[:last], f"{what} did not store its data")
            over = blocks > expected
            _check(answer, RESPONSE_OVERFLOW if over else RESPONSE_UNDERFLOW, abs(blocks - expected) * size, what)

    return run


async def _read_no_edtl(site: Site) -> None:
    async with site.session() as session:
        answer = await session.command(read_blocks(0, 1))
        if answer.bhs.status:
            raise Unusual(f"a read with EDTL 0 ends in status {answer.bhs.status:#04x}")
        _check(answer, RESPONSE_OVERFLOW, site.block_size, "a read of one block with EDTL 0")


async def _stay_in_step(site: Site) -> None:
    async with site.session() as session:
        for length in (1, 5, 36, 37, 255):
            answer = await session.good(inquiry(255), read=session.read_region(length))
            bhs = answer.bhs
            if bhs.flags & RESPONSE_UNDERFLOW and bhs.residual > length:
                raise Failure(f"INQUIRY with EDTL {length} has an underflow of {bhs.residual}")
            moved = length - (bhs.residual if bhs.flags & RESPONSE_UNDERFLOW else 0)
            whole = await session.good(inquiry(255), read=session.read_region(255))
            require(
                answer.data[:moved] == whole.data[:moved], f"INQUIRY with EDTL {length} has other data than with 255"
            )


CASES: Final = (
    Case("exact", "no residual where EDTL fits", "RFC 7143 11.4.5", _exact),
    Case("no-data", "no residual without data", "RFC 7143 11.4.5", _none),
    Case("control-underflow", "INQUIRY of less than EDTL", "RFC 7143 11.4.5.1", _control_under),
    Case("control-overflow", "INQUIRY of more than EDTL", "RFC 7143 11.4.5.1", _control_over),
    Case("read-underflow", "READ of less than EDTL", "RFC 7143 11.4.5.1", _read_under),
    Case("read-overflow", "READ of more than EDTL", "RFC 7143 11.4.5.1", _read_over),
    Case("no-data-edtl", "a command without data and an EDTL", "RFC 7143 11.4.5.1", _nothing_moved),
    Case("failed-read", "a READ that fails", "RFC 7143 11.4.5.1", _failed),
    Case("read-no-edtl", "READ with EDTL 0", "RFC 7143 11.4.5.1", _read_no_edtl),
    Case("odd-lengths", "INQUIRY with odd EDTLs", "RFC 7143 11.4.5.1", _stay_in_step),
    Case("write-underflow", "WRITE of less than EDTL", "RFC 7143 11.4.5.1", _write(1, 2), destructive=True),
    Case("write-overflow", "WRITE of more than EDTL", "RFC 7143 11.4.5.1", _write(2, 1), destructive=True),
)
