"""STags and base offsets: where a target may read and write, and when (RFC 7145 sections 7.3, 8.3, 9.2)."""

from __future__ import annotations

import asyncio
from typing import Final

from initiator.conformance.case import Case
from initiator.conformance.cases.data import fresh
from initiator.conformance.site import Session, Site
from initiator.conformance.talk import offers
from initiator.conformance.verdict import Failure, Skipped, Unusual, require
from iser.login import Wishes
from iser.pdu import COMMAND_READ, ScsiResponse
from iser.rdma.api import Access
from iser.scsi.cdb import inquiry, read_blocks, test_unit_ready, write_blocks

__all__ = ["CASES"]

_SKEWS: Final = (1, 3, 511, 513, 4095)
_BLOCKS: Final = 16
_FILL: Final = 0xA5
_UNKNOWN_KEY: Final = 0x00DEAD00


async def _unaligned_read(site: Site) -> None:
    async with site.session() as session:
        plain = await session.read(0, _BLOCKS)
        for skew in _SKEWS:
            found = await session.read(0, _BLOCKS, skew=skew, fill=0x5A)
            require(found == plain, f"a read to an address {skew} bytes off a page has other data")


async def _inside(site: Site) -> None:
    async with site.session() as session:
        plain = await session.read(0, 4)
        size, before = len(plain), 4097
        region = session.read_region(size + before + 4096)
        await session.good(read_blocks(0, 4), read=region, base=before, edtl=size)
        memory = region.memory
        require(memory[before : before + size] == plain, "a read to the middle of a region is not where its base says")
        around = memory[:before] + memory[before + size :]
        require(around == bytes((_FILL,)) * len(around), "a read wrote outside of its base and EDTL")


async def _within_edtl(site: Site) -> None:
    async with site.session() as session:
        size = site.block_size
        for expected in (size, size - 1, 1):
            region = session.read_region(4 * size)
            answer = await session.command(read_blocks(0, 4), read=region, edtl=expected)
            await asyncio.sleep(0.05)
            rest = region.memory[expected:]
            require(rest == bytes((_FILL,)) * len(rest), f"a read with EDTL {expected} wrote beyond it")
            require(answer.bhs.status or answer.bhs.flags & 4, f"a read with EDTL {expected} reports no overflow")


async def _in_place(site: Site) -> None:
    async with site.session() as session:
        blocks = min(site.blocks, site.max_transfer // site.block_size, (256 << 10) // site.block_size)
        first = await session.read(0, blocks, fill=0x00)
        second = await session.read(0, blocks, fill=0xFF)
        require(first == second, "read data was not in place when its response came")


async def _untouched(site: Site) -> None:
    # Without invalidation by the target the keys stay valid, so that a late access shows.
    async with site.session(private_data=bytes((0xC0, 0, 0, 0))) as session:
        _count(session)
        region = session.read_region(8 * site.block_size)
        answer = await session.good(read_blocks(0, 8), read=region)
        await _no_access(session, answer.operations, "a read")
        require(region.memory == answer.data, "the memory of a read changed after its response")


async def _untouched_write(site: Site) -> None:
    async with site.session(private_data=bytes((0xC0, 0, 0, 0))) as session:
        _count(session)
        answer = await session.write(0, fresh(8 * site.block_size))
        await _no_access(session, answer.operations, "a write")


def _count(session: Session) -> int:
    operations = session.operations
    if operations is None:
        raise Skipped("our device does not count what the peer does to its memory")
    return operations


async def _no_access(session: Session, then: int | None, what: str) -> None:
    await asyncio.sleep(session.quiet)
    now = session.operations
    require(now == then, f"the target touched our memory {(now or 0) - (then or 0)} times after the response of {what}")


async def _no_data(site: Site) -> None:
    async with site.session() as session:
        before = _count(session)
        await session.good(test_unit_ready())
        await session.good(read_blocks(0, 0))
        await session.command(test_unit_ready(), read=session.read_region(512))
        require(session.operations == before, "a command that moves no data touched our memory")


async def _zero_write(site: Site) -> None:
    async with site.session() as session:
        before = _count(session)
        await session.good(write_blocks(0, 0))
        require(session.operations == before, "a write of 0 blocks touched our memory")


async def _minimal(site: Site) -> None:
    async with site.session() as session:
        before = _count(session)
        size = _BLOCKS * site.block_size
        await session.good(read_blocks(0, _BLOCKS), read=session.read_region(size))
        moved = session.operations
        require(moved is not None and moved > before, "a read moved no data")


async def _own_keys(site: Site) -> None:
    async with site.session() as session:
        plain = await session.read(0, _BLOCKS)
        size = site.block_size
        regions = [session.read_region(size, skew=n) for n in range(_BLOCKS)]
        tasks = [session.send_command(read_blocks(n, 1), read=region) for n, region in enumerate(regions)]
        for number, itt in enumerate(tasks):
            data = (await session.answer(itt)).data
            require(data == plain[number * size : (number + 1) * size], "reads side by side have each other's data")


async def _first_solicited(site: Site) -> None:
    async with site.session() as session:
        params = session.result.params
        if not params.immediate_data:
            raise Skipped("the target answers ImmediateData=No, so that all data is solicited")
        size = 4096  # whole pages, for an offset in a page is another matter: data.immediate-block
        blocks = 4 * size // site.block_size
        data, wrong = fresh(4 * size), fresh(4 * size)
        region = session.write_region(data + wrong)
        await session.good(write_blocks(0, blocks), write=region, immediate=data[:size], edtl=4 * size)
        found = await session.read(0, blocks)
        if found == data[:size] + (data + wrong)[2 * size : 5 * size]:
            raise Failure("the target adds the immediate data to the write base; every initiator has added it already")
        require(found == data, "a write with immediate data stored something else")


async def _byte_zero(site: Site) -> None:
    async with site.session(Wishes(tagged_buffer_for_solicited_data_only=False)) as session:
        params = session.result.params
        if not params.immediate_data:
            raise Skipped("the target answers ImmediateData=No, so that all data is solicited")
        async with site.talk() as talk:
            said = await talk.log_in([*talk.introduction(), *offers(TaggedBufferForSolicitedDataOnly="No")])
        if said.pairs.get("TaggedBufferForSolicitedDataOnly") == "NotUnderstood":
            raise Skipped("the target answers NotUnderstood to TaggedBufferForSolicitedDataOnly")
        size = site.block_size
        data = fresh(4 * size)
        region = session.write_region(data + bytes(4 * size))
        await session.good(write_blocks(0, 4), write=region, immediate=data[:size], edtl=4 * size, base=0)
        require(await session.read(0, 4) == data, "TaggedBufferForSolicitedDataOnly=No: the base is not that of byte 0")


async def _unaligned_write(site: Site) -> None:
    async with site.session() as session:
        for skew in _SKEWS:
            data = fresh(_BLOCKS * site.block_size)
            region = session.write_region(data, skew=skew)
            await session.good(write_blocks(0, _BLOCKS), write=region)
            require(
                await session.read(0, _BLOCKS) == data, f"a write from {skew} bytes off a page stored something else"
            )


async def _useless_key(site: Site) -> None:
    async with site.session() as session:
        size = site.block_size
        if not session.result.params.immediate_data:
            raise Skipped("the target answers ImmediateData=No")
        before = _count(session)
        data = fresh(size)
        await session.good(write_blocks(0, 1), write=session.write_region(data), immediate=data)
        require(session.operations == before, "a write whose data all travelled with it is read once more")


async def _no_key(site: Site) -> None:
    async with site.session() as session:
        itt = session.send_command(read_blocks(0, 1), flags=COMMAND_READ, edtl=site.block_size)
        arrival = await session.anything()
        if arrival is None and not session.end:
            raise Unusual("a read without a key is dropped without an answer")
        if arrival and isinstance(arrival.bhs, ScsiResponse) and arrival.bhs.itt == itt:
            require(arrival.bhs.status, "a read without a key ends in GOOD")
    async with site.session() as session:
        await session.alive()


async def _bad_key(site: Site) -> None:
    async with site.session() as session:
        region = session.read_region(site.block_size)
        region.key ^= _UNKNOWN_KEY
        session.send_command(inquiry(36), read=region)
        arrival = await session.anything()
        good = arrival is not None and isinstance(arrival.bhs, ScsiResponse) and not arrival.bhs.status
        require(not good or await session.closed(), "a read to a key that does not exist ends in GOOD")
    async with site.session() as session:
        await session.alive()


async def _wrong_access(site: Site) -> None:
    async with site.session() as session:
        view = memoryview(bytearray(site.block_size))
        region = session.register([view], Access.REMOTE_READ)
        session.send_command(read_blocks(0, 1), read=region)
        await session.anything(session.quiet)
        require(bytes(view) == bytes(site.block_size), "a read was placed in memory that only may be read")
    async with site.session() as session:
        await session.alive()


CASES: Final = (
    Case("unaligned-read", "reads to any address", "RFC 7145 7.3.5", _unaligned_read),
    Case("read-base", "a base inside of a region", "RFC 7145 9.2", _inside),
    Case("within-edtl", "no RDMA Write beyond EDTL", "RFC 7145 7.3.5", _within_edtl),
    Case("in-place", "read data is there when the response comes", "RFC 7145 7.3.5", _in_place),
    Case("one-transfer", "a read moves its data by RDMA Write", "RFC 7145 7.3.5", _minimal),
    Case("side-by-side", "each command its own key", "RFC 7145 8.3", _own_keys),
    Case("after-read", "no access after the response of a read", "RFC 7145 7.3.2", _untouched),
    Case("no-data", "no access by a command without data", "RFC 7145 7.3.5", _no_data),
    Case(
        "after-write", "no access after the response of a write", "RFC 7145 7.3.2", _untouched_write, destructive=True
    ),
    Case("zero-write", "no access by a write of 0 blocks", "RFC 7145 7.3.6", _zero_write, destructive=True),
    Case("unaligned-write", "writes from any address", "RFC 7145 7.3.6", _unaligned_write, destructive=True),
    Case(
        "write-base", "the base is that of the first solicited byte", "RFC 7145 6.9", _first_solicited, destructive=True
    ),
    Case(
        "byte-zero", "TaggedBufferForSolicitedDataOnly=No: byte 0 instead", "RFC 7145 6.9", _byte_zero, destructive=True
    ),
    Case("useless-key", "no RDMA Read of immediate data", "RFC 7145 7.3.6", _useless_key, destructive=True),
    Case("no-key", "a read without a key", "RFC 7145 9.2", _no_key, risky=True),
    Case("bad-key", "a read to a key that does not exist", "RFC 7145 8.3", _bad_key, risky=True),
    Case("wrong-access", "a read to memory without write access", "RFC 7145 8.3", _wrong_access, risky=True),
)
