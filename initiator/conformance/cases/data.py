"""Immediate and unsolicited write data (RFC 7143 sections 11.3, 11.7, 13.10 to 13.14)."""

from __future__ import annotations

import os
from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.site import Session, Site
from initiator.conformance.verdict import Failure, Skipped, Unusual, require
from iser.login import Wishes
from iser.pdu import FINAL, RESERVED_TAG, DataOut, Pdu, Reject, ScsiResponse
from iser.scsi.cdb import write_blocks

__all__ = ["CASES"]

_PAGE: Final = 4096
_UNASKED: Final = Wishes(initial_r2t=False)


def fresh(length: int) -> bytes:
    """Bytes that no earlier case or run has stored."""
    return os.urandom(length)


async def _same(session: Session, lba: int, data: bytes, what: str) -> None:
    found = await session.read(lba, len(data) // session.block_size)
    if found != data:
        at = next(i for i, (a, b) in enumerate(zip(found, data, strict=True)) if a != b)
        raise Failure(f"{what}: byte {at} of {len(data)} was stored wrong")


def _immediate_room(session: Session) -> int:
    """Bytes that may travel with a command."""
    params = session.result.params
    if not params.immediate_data:
        raise Skipped("the target answers ImmediateData=No")
    return min(params.first_burst_length, params.target_recv_data_segment_length)


async def _solicited(site: Site) -> None:
    async with site.session() as session:
        data = fresh(8 * site.block_size)
        await session.write(0, data)
        await _same(session, 0, data, "8 blocks by RDMA Read")


async def _whole(site: Site) -> None:
    async with site.session() as session:
        size = _immediate_room(session) // site.block_size * site.block_size
        for length in {site.block_size, size} - {0}:
            data = fresh(length)
            await session.good(write_blocks(0, length // site.block_size), immediate=data)
            await _same(session, 0, data, f"{length} bytes of immediate data")


async def _part(site: Site) -> None:
    async with site.session() as session:
        room = _immediate_room(session)
        total = max(2 * room, 8 * site.block_size) // site.block_size * site.block_size
        for first in {min(room, _PAGE), room // _PAGE * _PAGE or room}:
            data = fresh(total)
            region = session.write_region(data)
            await session.good(write_blocks(0, total // site.block_size), write=region, immediate=data[:first])
            await _same(session, 0, data, f"{first} bytes of immediate data, the rest by RDMA Read")


async def _sector(site: Site) -> None:
    async with site.session() as session:
        _immediate_room(session)
        data = fresh(16 * site.block_size)
        first = site.block_size
        region = session.write_region(data)
        await session.good(write_blocks(0, 16), write=region, immediate=data[:first])
        await _same(session, 0, data, f"{first} bytes of immediate data, less than a page, the rest by RDMA Read")


async def _odd(site: Site) -> None:
    async with site.session() as session:
        room = _immediate_room(session)
        data = fresh(4 * site.block_size)
        for first in (1, 509, min(room, site.block_size + 3)):
            region = session.write_region(data, skew=1)
            await session.good(write_blocks(0, 4), write=region, immediate=data[:first])
            await _same(session, 0, data, f"{first} bytes of immediate data, the rest from an odd address")


async def _refusal(session: Session, itt: int, what: str) -> None:
    """Something that was not agreed on must not end in GOOD."""
    arrival = await session.anything()
    if arrival is None:
        if not session.end:
            raise Unusual(f"{what} is dropped without an answer")
        return
    if isinstance(arrival.bhs, ScsiResponse) and arrival.bhs.itt == itt:
        require(arrival.bhs.status, f"{what} is taken as if it had been agreed on")
    elif not isinstance(arrival.bhs, Reject):
        raise Failure(f"{what} is answered with a {type(arrival.bhs).__name__}")


async def _not_agreed(site: Site) -> None:
    async with site.session(Wishes(immediate_data=False)) as session:
        itt = session.send_command(write_blocks(0, 1), immediate=bytes(site.block_size))
        await _refusal(session, itt, "immediate data after ImmediateData=No")


async def _beyond_burst(site: Site) -> None:
    async with site.session(Wishes(first_burst_length=512)) as session:
        _immediate_room(session)
        itt = session.send_command(write_blocks(0, 8), immediate=bytes(8 * site.block_size))
        await _refusal(session, itt, "immediate data beyond FirstBurstLength=512")


async def _more_than_edtl(site: Site) -> None:
    async with site.session() as session:
        _immediate_room(session)
        itt = session.send_command(write_blocks(0, 1), immediate=bytes(2 * site.block_size), edtl=site.block_size)
        await _refusal(session, itt, "more immediate data than EDTL")


def _data_outs(session: Session, itt: int, data: bytes, start: int) -> list[Pdu]:
    size = session.result.params.target_recv_data_segment_length
    pieces = [(at, data[at : at + size]) for at in range(start, len(data), size)]
    return [
        Pdu(
            DataOut(
                flags=FINAL if number == len(pieces) - 1 else 0,
                lun=session.lun,
                itt=itt,
                ttt=RESERVED_TAG,
                data_sn=number,
                buffer_offset=at,
            ),
            piece,
        )
        for number, (at, piece) in enumerate(pieces)
    ]


async def _unsolicited(site: Site) -> None:
    async with site.session(_UNASKED) as session:
        params = session.result.params
        if params.initial_r2t:
            raise Skipped("the target answers InitialR2T=Yes")
        burst = params.first_burst_length // site.block_size * site.block_size
        total = min(burst + 4 * site.block_size, site.scratch * site.block_size)
        data = fresh(total)
        burst = min(params.first_burst_length, total)
        region = session.write_region(data)
        itt = session.send_command(write_blocks(0, total // site.block_size), write=region, base=burst, final=False)
        for pdu in _data_outs(session, itt, data[:burst], 0):
            session.send_control(pdu)
        answer = await session.answer(itt)
        require(not answer.bhs.status, f"a write with unsolicited data ends in status {answer.bhs.status:#04x}")
        await _same(session, 0, data, f"{burst} unsolicited bytes")


async def _unasked(site: Site) -> None:
    async with site.session() as session:
        if not session.result.params.initial_r2t:
            raise Skipped("the target agrees to InitialR2T=No although Yes was offered")
        data = bytes(site.block_size)
        itt = session.send_command(write_blocks(0, 1), write=session.write_region(data), final=False)
        session.send_control(_data_outs(session, itt, data, 0)[0])
        await _refusal(session, itt, "unsolicited data after InitialR2T=Yes")


async def _no_task(site: Site) -> None:
    async with site.session() as session:
        session.send_control(_data_outs(session, 0x7777, bytes(512), 0)[0])
        arrival = await session.anything(min(1.0, session.patience))
        if arrival is not None and not isinstance(arrival.bhs, Reject):
            raise Failure(f"a Data-Out for no task is answered with a {type(arrival.bhs).__name__}")
        if session.end:
            return
        await session.alive()
        if arrival is None:
            raise Unusual("a Data-Out for no task is dropped without an answer")


CASES: Final = (
    Case("solicited", "a write by RDMA Read", "RFC 7145 7.3.6", _solicited, destructive=True),
    Case("immediate", "a write whose data travels with it", "RFC 7143 11.3, 13.11", _whole, destructive=True),
    Case("immediate-part", "immediate data, and the rest by RDMA Read", "RFC 7145 7.3.1", _part, destructive=True),
    Case("immediate-block", "one block of immediate data, and the rest", "RFC 7145 7.3.1", _sector, destructive=True),
    Case("immediate-odd", "immediate data of odd length, padded", "RFC 7143 11.1, 11.2.4", _odd, destructive=True),
    Case(
        "unsolicited", "unsolicited Data-Outs up to FirstBurstLength", "RFC 7143 13.10", _unsolicited, destructive=True
    ),
    Case("not-agreed", "no immediate data after ImmediateData=No", "RFC 7143 13.11", _not_agreed, destructive=True),
    Case("beyond-burst", "no data beyond FirstBurstLength", "RFC 7143 13.14", _beyond_burst, destructive=True),
    Case("beyond-edtl", "no immediate data beyond EDTL", "RFC 7143 11.3.4", _more_than_edtl, destructive=True),
    Case(
        "unasked", "no unsolicited data after InitialR2T=Yes", "RFC 7143 13.10", _unasked, destructive=True, risky=True
    ),
    Case("no-task", "a Data-Out for no task", "RFC 7143 11.7", _no_task, risky=True),
)
