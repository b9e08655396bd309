"""A logical unit: blocks in and out of any buffers, and any SCSI command (SBC-3, SPC-4)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from traceback import clear_frames
from types import TracebackType
from typing import Any, Final, Self

from initiator.establish import Link
from initiator.options import ConnectOptions
from initiator.session import Session
from initiator.task import GOOD, ScsiResult
from initiator.url import Portal
from iser.errors import CommandError, CommandTimeout, ConnectionFailed, PduError, ScsiError, UsageError
from iser.scsi import cdb as cdbs
from iser.scsi.capacity import Capacity, parse_capacity_10, parse_capacity_16
from iser.scsi.const import SenseKey, Status, VpdPage
from iser.scsi.inquiry import DEVICE_TYPES, StandardInquiry, parse_block_limits, parse_standard, parse_supported_pages
from iser.scsi.lun import encode_lun
from iser.scsi.sense import scsi_error
from iser.sg import Buffer, RegistrationCounters, SgList

__all__ = ["MAX_ATTENTIONS", "MEDIA_RETRIES", "Lun"]

MAX_ATTENTIONS: Final = 8  # unit attentions to clear when connecting
MEDIA_RETRIES: Final = 1  # a read or write that met a unit attention is sent once more

_BLOCK_DEVICES: Final = (0x00, 0x05, 0x07, 0x0E, 0x14)
#: Bytes of one command by vendor: tgt closes the connection on more (one buffer of this size for each direction).
_VENDOR_LIMITS: Final = {"IET": 512 << 10}

Buffers = Buffer | Iterable[Buffer] | SgList


class Lun:
    """One logical unit on a session of its own; an async context manager that logs out at its end.

    Buffers are any objects with contiguous memory, one or several, of any address and length, or an
    :class:`iser.sg.SgList` of them, which may be used many times and saves looking at them each time.  They must stay
    as they are until the call returns; after it, however it ended, nobody else touches them.
    """

    def __init__(self, link: Link, number: int, options: ConnectOptions) -> None:
        self.number = number
        self._link = link
        self._session = link.session
        # The session of libiscsi, which a Lun may have as well, is one of coroutines only.
        self._direct = isinstance(self._session, Session)
        self._planner = link.planner
        self._field = encode_lun(number)
        self._options = options
        self._max_bytes = options.max_transfer
        self._capacity: Capacity | None = None
        self._block_size = 0

    @classmethod
    async def open(cls, link: Link, number: int, options: ConnectOptions) -> Lun:
        """Find out what LUN ``number`` of a session is.  Raises ConnectionFailed where there is none, ScsiError."""
        self = cls(link, number, options)
        standard = await self.inquiry()
        if standard.qualifier or standard.device_type == 0x1F:
            raise ConnectionFailed(f"the target has no LUN {number}; REPORT LUNS tells which there are")
        await self._await_ready()
        if standard.device_type in _BLOCK_DEVICES:
            self._capacity = await self._read_capacity()
            self._block_size = self._capacity.block_size
            await self._learn_limit(standard)
        return self

    @property
    def capacity(self) -> Capacity:
        """Blocks, and bytes in a block, as they were at connect time."""
        if self._capacity is None:
            raise UsageError(f"LUN {self.number} is no block device; use execute() for its commands")
        return self._capacity

    @property
    def counters(self) -> RegistrationCounters:
        """What registering buffers took so far."""
        return self._link.datamover.counters

    @property
    def session(self) -> Session:
        """The session underneath."""
        return self._session

    @property
    def link(self) -> Link:
        """The session with its datamover and its portal."""
        return self._link

    @property
    def portal(self) -> Portal:
        """Where the session is, after redirections."""
        return self._link.portal

    @property
    def max_transfer(self) -> int:
        """Bytes that one READ or WRITE moves at most; larger ones are split."""
        return self._max_bytes

    # Blocks

    # Both give the coroutine itself: one of their own around it would be run through for each transfer, twice.

    def read_into(self, lba: int, buffers: Buffers) -> Coroutine[Any, Any, None]:
        """Fill ``buffers`` from block ``lba`` on.

        Their total length must be a multiple of the block size.  Raises UsageError, ScsiError, CommandTimeout,
        CommandAborted, ConnectionLost, and ResourceError where no_bounce forbids the only way.
        """
        return self._transfer(lba, buffers, write=False)

    def write(self, lba: int, buffers: Buffers, *, fua: bool = False) -> Coroutine[Any, Any, None]:
        """Write ``buffers`` from block ``lba`` on, with ``fua`` to the medium itself; else as :meth:`read_into`."""
        return self._transfer(lba, buffers, write=True, fua=fua)

    async def read(self, lba: int, blocks: int) -> bytes:
        """``blocks`` blocks from ``lba`` on, in new memory, with one copy that :meth:`read_into` does without."""
        if blocks < 0:
            raise UsageError(f"cannot read {blocks} blocks; give 0 or more")
        memory = bytearray(blocks * self.capacity.block_size)
        await self.read_into(lba, memory)
        return bytes(memory)

    async def flush(self) -> None:
        """Have what was written reach the medium (SYNCHRONIZE CACHE)."""
        await self._control(cdbs.synchronize_cache(), 0, "SYNCHRONIZE CACHE")

    async def _transfer(self, lba: int, buffers: Buffers, *, write: bool, fua: bool = False) -> None:
        """Most transfers are one command that succeeds: all that it takes is here, in as few coroutines as can be."""
        session = self._session
        try:
            sg = SgList.of(buffers, writable=not write)
            blocks = self._blocks_of(sg)
            if sg.length > self._max_bytes or (self._planner is not None and self._planner.splits):
                await self._in_parts(lba, sg, write=write, fua=fua)
                return
            if not blocks:
                return
            if not self._direct:
                await self._one(lba, sg, write=write, fua=fua)
                return
            if write:
                task = session.start(self._field, cdbs.write_blocks(lba, blocks, fua=fua), None, sg)
            else:
                task = session.start(self._field, cdbs.read_blocks(lba, blocks), sg)
            try:
                result = await task.future
            except (asyncio.CancelledError, CommandTimeout):
                await session.withdraw(task)
                raise
            if result is not GOOD:
                await self._check(result, lba, sg, write=write, fua=fua)
        except BaseException as error:
            # The traceback refers to this frame, too.
            sg = task = buffers = None  # type: ignore[assignment]  # nobody uses them any more
            _let_go(error)
            raise

    def _blocks_of(self, sg: SgList) -> int:
        size = self._block_size or self.capacity.block_size
        blocks, rest = divmod(sg.length, size)
        if rest:
            raise UsageError(f"the buffers hold {sg.length} bytes, which is no multiple of the block size of {size}")
        return blocks

    async def _in_parts(self, lba: int, sg: SgList, *, write: bool, fua: bool) -> None:
        size = self._block_size
        runs = [sg] if self._planner is None else self._planner.parts(sg, size)
        commands = []
        for part in (piece for run in runs for piece in _split(run, self._max_bytes // size * size)):
            commands.append(self._one(lba, part, write=write, fua=fua))
            lba += part.length // size
        # Each part ends before an error is raised: none of them may go on with the caller's memory.
        outcomes = await asyncio.gather(*commands, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _one(self, lba: int, sg: SgList, *, write: bool, fua: bool) -> None:
        result = await self._command(lba, sg, write=write, fua=fua)
        if result is not GOOD:
            await self._check(result, lba, sg, write=write, fua=fua)

    async def _command(self, lba: int, sg: SgList, *, write: bool, fua: bool) -> ScsiResult:
        blocks = sg.length // self._block_size
        if write:
            return await self._session.execute(self._field, cdbs.write_blocks(lba, blocks, fua=fua), None, sg)
        return await self._session.execute(self._field, cdbs.read_blocks(lba, blocks), sg)

    async def _check(self, result: ScsiResult, lba: int, sg: SgList, *, write: bool, fua: bool) -> None:
        """Raise what a result says, but send a command that met a unit attention once more."""
        what = f"{'write' if write else 'read'} of {sg.length // self._block_size} blocks at LBA {lba}"
        retries = MEDIA_RETRIES
        while result.status or result.residual:
            error = self._error(result, what)
            if not (_is_attention(error) and retries):
                raise error
            retries -= 1
            result = await self._command(lba, sg, write=write, fua=fua)

    def _error(self, result: ScsiResult, what: str) -> CommandError:
        if result.status:
            return scsi_error(result.status, result.sense, what)
        sign = "beyond" if result.overflow else "short of"
        return CommandError(f"{what}: the target moved {result.residual} bytes {sign} what it was asked for")

    # Any command

    async def execute(
        self,
        cdb: bytes,
        data_in: Buffers = (),
        data_out: Buffers = (),
        timeout: float | None = None,
        *,
        check: bool = True,
    ) -> ScsiResult:
        """Carry out any SCSI command of up to 260 bytes, as SG_IO does; data of any length, in one direction.

        ``timeout`` in seconds.  Raises ScsiError for a status other than GOOD, unless ``check`` is False, and what
        :meth:`read_into` raises.  A length that differs from what the command moved is no error: see ``residual``.
        """
        if not cdb:
            raise UsageError("the CDB is empty; give at least an operation code")
        try:
            result = await self._session.execute(
                self._field,
                bytes(cdb),
                SgList.of(data_in, writable=True),
                SgList.of(data_out, writable=False),
                timeout,
            )
        except BaseException as error:
            _let_go(error)
            raise
        if check and result.status:
            raise scsi_error(result.status, result.sense, f"command {cdb[0]:#04x}")
        return result

    async def inquiry(self) -> StandardInquiry:
        """The standard INQUIRY data."""
        return parse_standard(await self._control(cdbs.inquiry(255), 255, "INQUIRY"))

    async def vpd(self, page: int) -> bytes:
        """A page of vital product data, raw.  Raises ScsiError for one that the unit does not have."""
        return await self._control(cdbs.inquiry(1024, page), 1024, f"INQUIRY for VPD page {page:#04x}")

    async def vpd_pages(self) -> tuple[int, ...]:
        """The VPD pages that the unit has; none if it does not tell."""
        try:
            return parse_supported_pages(await self.vpd(VpdPage.SUPPORTED_PAGES))
        except (ScsiError, PduError):
            return ()

    async def _control(self, cdb: bytes, length: int, what: str) -> bytes:
        """The ``length`` bytes, or fewer, of a command's data; unit attentions are cleared on the way."""
        memory = bytearray(length)
        sg = SgList.of(memory, writable=True)
        for attempt in range(MAX_ATTENTIONS + 1):
            result = await self._session.execute(self._field, cdb, sg)
            if not result.status:
                moved = length if result.overflow else length - min(length, result.residual)
                return bytes(memory[:moved])
            error = scsi_error(result.status, result.sense, what)
            if not _is_attention(error) or attempt == MAX_ATTENTIONS:
                raise error
        raise AssertionError("the last attempt returns or raises")

    # What it is

    async def _await_ready(self) -> None:
        await self._control(cdbs.test_unit_ready(), 0, "TEST UNIT READY")

    async def _read_capacity(self) -> Capacity:
        try:
            return parse_capacity_16(await self._control(cdbs.read_capacity_16(), 32, "READ CAPACITY(16)"))
        except ScsiError as error:
            if error.sense_key != SenseKey.ILLEGAL_REQUEST:
                raise
        capacity = parse_capacity_10(await self._control(cdbs.read_capacity_10(), 8, "READ CAPACITY(10)"))
        if capacity is None:
            raise ConnectionFailed(f"LUN {self.number} is larger than READ CAPACITY(10) can tell, and has no other")
        return capacity

    async def _learn_limit(self, standard: StandardInquiry) -> None:
        limit = min(self._options.max_transfer, _VENDOR_LIMITS.get(standard.vendor, self._options.max_transfer))
        if VpdPage.BLOCK_LIMITS in await self.vpd_pages():
            maximum = parse_block_limits(await self.vpd(VpdPage.BLOCK_LIMITS)).maximum
            if maximum:
                limit = min(limit, maximum * self._block_size)
        self._max_bytes = max(limit // self._block_size, 1) * self._block_size

    # The end

    async def close(self) -> None:
        """Log out and disconnect.  Idempotent."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Lun {self.number} at {self.portal}>"


def device_type_name(device_type: int) -> str:
    """What a peripheral device type is called."""
    return DEVICE_TYPES.get(device_type, f"device type {device_type:#04x}")


def _let_go(error: BaseException) -> None:
    """Have the traceback of a failed call keep no hold of the caller's memory.

    The frames in it own views of the buffers.  While someone looks at the error, or for ever where it is a cancellation
    that CPython 3.11 cannot collect, a mapping could not be closed nor a bytearray be resized.
    """
    clear_frames(error.__traceback__)


def _is_attention(error: CommandError) -> bool:
    return (
        isinstance(error, ScsiError)
        and error.status == Status.CHECK_CONDITION
        and error.sense_key == SenseKey.UNIT_ATTENTION
    )


def _split(sg: SgList, size: int) -> Iterator[SgList]:
    """The list in parts of ``size`` bytes; the last may be shorter."""
    views: list[memoryview] = []
    addresses: list[int] = []
    lengths: list[int] = []
    room = size
    for view, address in zip(sg.views, sg.addresses, strict=True):
        at, end = 0, len(view)
        while at < end:
            take = min(room, end - at)
            views.append(view[at : at + take])
            addresses.append(address + at)
            lengths.append(take)
            at += take
            room -= take
            if not room:
                yield SgList(views, addresses, lengths)
                views, addresses, lengths, room = [], [], [], size
    if views:
        yield SgList(views, addresses, lengths)
