"""An initiator that sends whatever a case wants, and sees all that comes back: PDUs, invalidations, remote accesses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

from initiator.conformance.region import Region
from initiator.conformance.verdict import Failure, Skipped
from iser.datamover.endpoint import Endpoint
from iser.errors import IserError, PduError
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    CONTROL,
    FINAL,
    IMMEDIATE,
    PLAIN_HEADER,
    RESERVED_TAG,
    RSV,
    WSV,
    IserHeader,
    LoginResponse,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    TaskAttribute,
    build_header,
    encode,
)
from iser.pdu.const import RejectReason
from iser.rdma.api import (
    Access,
    ConnectionParams,
    Device,
    DeviceCap,
    MrType,
    Provider,
    QueuePair,
    RegMr,
)
from iser.sg import SgList

__all__ = ["PATIENCE", "QUIET", "Answer", "Arrival", "Probe"]

PATIENCE: Final = 5.0  # seconds for an answer that must come
QUIET: Final = 0.3  # seconds in which nothing may come
DEPTH: Final = 288  # receives for answers: more than any window that is filled
_MASK: Final = 0xFFFFFFFF
_READ_DEPTH: Final = 16
_PAGE: Final = 4096
_REDIRECTION: Final = 1  # a class of login status


class Arrival(NamedTuple):
    """A PDU with the key that its Send invalidated (0: none), and our count of remote operations when it came."""

    pdu: Pdu
    invalidated: int
    operations: int | None

    @property
    def bhs(self) -> Any:
        """The header."""
        return self.pdu.bhs


class Answer(NamedTuple):
    """A SCSI Response; ``data`` is what the whole read region held when it came."""

    bhs: ScsiResponse
    sense: bytes
    segment: int
    invalidated: int
    operations: int | None
    data: bytes


class Probe(Endpoint):
    """One connection.  Made by :meth:`connect`; answers are waited for at most PATIENCE seconds.

    What does not come, or comes as a Reject or the end of the connection, is a Failure.
    """

    #: How many receives to post for the full-feature phase.
    receives = DEPTH

    def __init__(self) -> None:
        super().__init__(self)
        self.offered = b""
        #: Seconds to wait for an answer that must come, where a call does not say.
        self.patience = PATIENCE
        #: Seconds in which nothing may come, where nothing must.
        self.quiet = QUIET
        self.cmd_sn = 1
        self.itt = 0
        self.lun = 0
        #: The ExpStatSN to send before any response came.
        self.first_stat_sn = 0
        #: (StatSN, ExpCmdSN, MaxCmdSN) of each PDU that had them, in the order of arrival.
        self.numbers: list[tuple[int, int, int]] = []
        self.end: str | None = None
        #: The text of a login response that sends us elsewhere.
        self.redirection: bytes | None = None
        self._inbox: list[Arrival | PduError] = []
        self._news = asyncio.Event()
        self._regions: dict[int, Region] = {}
        self._snapshots: dict[int, bytes] = {}

    @classmethod
    async def connect(cls, provider: Provider, host: str, port: int, private_data: bytes, timeout: float) -> Self:
        """Connect, with ``private_data`` in the connection manager's request.  Raises ConnectionFailed."""
        self = cls()

        def setup(device: Device) -> QueuePair:
            return self.setup(device, DEPTH)

        try:
            params = ConnectionParams(private_data, _READ_DEPTH, initiator_depth=1)
            qp, info = await provider.connect(host, port, setup, params, timeout)
        except BaseException:
            self._release()
            raise
        self.name = qp.name
        self.offered = bytes(info.private_data)
        return self

    # Up-calls: this is its own user.

    def _received(self, header: IserHeader, pdu: Pdu, invalidated: int) -> None:
        bhs: Any = pdu.bhs
        kept = pdu._replace(data=bytes(pdu.data))
        if isinstance(bhs, ScsiResponse) and bhs.itt in self._regions:
            self._snapshots[bhs.itt] = bytes(self._regions[bhs.itt].memory)
        numbered = hasattr(bhs, "max_cmd_sn") and hasattr(bhs, "stat_sn")
        if isinstance(bhs, NopIn) and bhs.itt == RESERVED_TAG:
            self._answer_ping(bhs)
            return
        if numbered:
            self.numbers.append((bhs.stat_sn, bhs.exp_cmd_sn, bhs.max_cmd_sn))
        if isinstance(bhs, LoginResponse) and bhs.status_class == _REDIRECTION:
            self.redirection = bytes(kept.data)
        self._inbox.append(Arrival(kept, invalidated, self.operations))
        self._news.set()

    def _answer_ping(self, bhs: NopIn) -> None:
        """A target's own NOP-In takes no StatSN and may come at any time."""
        if bhs.ttt != RESERVED_TAG:
            ping = NopOut(opcode=IMMEDIATE, lun=bhs.lun, ttt=bhs.ttt, cmd_sn=self.cmd_sn, exp_stat_sn=self._stat_sn)
            self.send_control(Pdu(ping))

    def control_notify(self, pdu: Pdu) -> None:
        """See :class:`DatamoverUser`; PDUs are taken before."""

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        """See :class:`DatamoverUser`."""
        del bhs
        self._inbox.append(error)
        self._news.set()

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        """See :class:`DatamoverUser`."""
        self.end = str(reason or "the target closed it")
        self._news.set()

    def deallocate_task_resources(self, itt: int) -> None:
        """See :class:`Datamover`."""
        self._regions.pop(itt, None)

    def _free_tasks(self, *, flushed: bool) -> None:
        del flushed
        self._regions.clear()

    # Memory

    @property
    def operations(self) -> int | None:
        """RDMA operations of the target on our memory so far; None where the device does not tell."""
        return self._qp.remote_operations

    @property
    def invalidation(self) -> bool:
        """Whether our device lets a peer invalidate its keys."""
        return bool(self._device.attributes.caps & DeviceCap.MEM_MGT_EXTENSIONS)

    def read_region(self, length: int, *, skew: int = 0, fill: int = 0xA5) -> Region:
        """``length`` bytes for the target to write to, ``skew`` bytes off a page boundary, all of them ``fill``."""
        views = [self._pd.alloc_buffer(length + skew)[skew:]]
        views[0][:] = bytes((fill,)) * length
        return self.register(views, Access.LOCAL_WRITE | Access.REMOTE_WRITE)

    def write_region(self, data: bytes, *, skew: int = 0) -> Region:
        """Memory that holds ``data`` for the target to read."""
        view = self._pd.alloc_buffer(len(data) + skew)[skew:]
        view[:] = data
        return self.register([view], Access.REMOTE_READ)

    def register(self, views: Sequence[memoryview], access: Access) -> Region:
        """One key for a list of any pieces.  Raises Skipped where the device has no such regions."""
        sg = SgList.of(views, writable=False)
        gaps = len(sg) > 1
        if gaps and not self._device.attributes.caps & DeviceCap.SG_GAPS_REG:
            raise Skipped(f"our device {self._device.name} has no memory regions for lists of any pieces")
        entries = len(sg) if gaps else sg.length // _PAGE + 2
        mr = self._pd.alloc_mr(MrType.SG_GAPS if gaps else MrType.MEM_REG, entries)
        mr.map_sg(sg)
        key = mr.next_key(access)
        self._qp.post_send(RegMr(None, mr, key, access))
        return Region(list(sg.views), mr.iova, key)

    # Sending

    def number(self, bhs: Any) -> Any:
        """``bhs`` with the next CmdSN, which only a request that is not immediate uses up, and a new task tag."""
        self.itt += 1
        changes = {"itt": self.itt, "cmd_sn": self.cmd_sn, "exp_stat_sn": self._stat_sn}
        numbered = bhs._replace(**changes)
        if not bhs.opcode & IMMEDIATE:
            self.cmd_sn = self.cmd_sn + 1 & _MASK
        return numbered

    @property
    def _stat_sn(self) -> int:
        return self.numbers[-1][0] + 1 & _MASK if self.numbers else self.first_stat_sn

    def send(self, bhs: Any, data: bytes = b"") -> int:
        """Send a PDU as the next in order; returns its task tag."""
        numbered = self.number(bhs)
        self.send_control(Pdu(numbered, data))
        return int(numbered.itt)

    def send_bytes(self, message: bytes, header: bytes = PLAIN_HEADER) -> None:
        """Send any bytes behind an iSER header, which may be anything, too."""
        self._send(header + message)

    def send_command(  # noqa: PLR0913 - all that a command can differ in
        self,
        cdb: bytes,
        *,
        read: Region | None = None,
        write: Region | None = None,
        edtl: int | None = None,
        immediate: bytes = b"",
        flags: int | None = None,
        lun: int | None = None,
        opcode: int = 0x01,
        base: int | None = None,
        final: bool = True,
    ) -> int:
        """Send a SCSI command with its keys; returns its task tag.

        ``base`` is how far into its region the advertised address is: 0 for a read, the immediate data for a write.
        """
        header = IserHeader(CONTROL)
        if read is not None:
            header = header._replace(flags=CONTROL | RSV, read_stag=read.key, read_base=read.base + (base or 0))
        if write is not None:
            start = write.base + (len(immediate) if base is None else base)
            header = header._replace(flags=header.flags | WSV, write_stag=write.key, write_base=start)
        if flags is None:
            flags = (COMMAND_READ if read else 0) | (COMMAND_WRITE if write or immediate else 0)
        length = (read or write).length if read or write else len(immediate)  # type: ignore[union-attr]  # one of them is
        bhs = ScsiCommand(
            opcode=opcode,
            flags=flags | TaskAttribute.SIMPLE | (FINAL if final else 0),
            lun=self.lun if lun is None else lun,
            edtl=length if edtl is None else edtl,
            cdb=cdb.ljust(16, b"\0"),
        )
        numbered = self.number(bhs)
        if read is not None:
            self._regions[numbered.itt] = read
        self._send(build_header(header) + encode(Pdu(numbered, immediate)))
        return int(numbered.itt)

    # Receiving

    async def answer(self, itt: int, seconds: float | None = None) -> Answer:
        """The SCSI Response of a command."""
        got = await self.expect(ScsiResponse, itt, seconds)
        bhs, data = got.bhs, bytes(got.pdu.data)
        sense = data[2 : 2 + int.from_bytes(data[:2], "big")] if data else b""
        taken = self._snapshots.pop(itt, b"")
        return Answer(bhs, sense, len(data), got.invalidated, got.operations, taken)

    async def command(self, cdb: bytes, **how: Any) -> Answer:
        """Send a command and wait for its response."""
        return await self.answer(self.send_command(cdb, **how))

    async def good(self, cdb: bytes, **how: Any) -> Answer:
        """As :meth:`command`; any status but GOOD is a Failure."""
        answer = await self.command(cdb, **how)
        if answer.bhs.status or answer.bhs.response:
            sense = answer.sense[:18].hex()
            raise Failure(
                f"command {cdb[0]:#04x} ended in response {answer.bhs.response:#x}, status"
                f" {answer.bhs.status:#04x}, sense {sense or 'none'}"
            )
        return answer

    async def ask(self, bhs: Any, kind: type[Any], data: bytes = b"", seconds: float | None = None) -> Arrival:
        """Send a request and wait for its response, a ``kind``."""
        return await self.expect(kind, self.send(bhs, data), seconds)

    async def expect(self, kind: type[Any], itt: int | None = None, seconds: float | None = None) -> Arrival:
        """The first PDU of ``kind``, for ``itt`` if given; others stay for later."""

        def wanted(arrival: Arrival) -> bool:
            return isinstance(arrival.bhs, kind) and itt in (None, arrival.bhs.itt)

        arrival = await self._take(wanted, seconds)
        if arrival is None:
            rejected = next((a for a in self._inbox if isinstance(a, Arrival) and isinstance(a.bhs, Reject)), None)
            if rejected:
                raise Failure(f"instead of a {kind.__name__} came a Reject, reason {reason_name(rejected.bhs.reason)}")
            ended = f"the connection ended: {self.end}" if self.end else "nothing came in time"
            raise Failure(f"no {kind.__name__}: {ended}")
        return arrival

    async def anything(self, seconds: float | None = None) -> Arrival | None:
        """The next PDU, whatever it is; None when the connection ends or ``seconds`` pass."""
        return await self._take(lambda _: True, seconds, stop_at_reject=False)

    async def closed(self, seconds: float | None = None) -> bool:
        """Wait for the end of the connection; False if it does not come."""
        deadline = self._deadline(seconds)
        while self.end is None:
            if not await self._wait(deadline):
                return self.end is not None
        return True

    async def silence(self, what: str) -> None:
        """Failure when a PDU comes within :attr:`quiet`, or the connection ends; ``what`` says what brought it."""
        arrival = await self.anything(self.quiet)
        if arrival is not None:
            raise Failure(f"{what} brought a {type(arrival.bhs).__name__}")
        if self.end:
            raise Failure(f"{what} ended the connection: {self.end}")

    async def alive(self) -> None:
        """Failure unless the session still answers a ping."""
        await self.ask(NopOut(opcode=IMMEDIATE), NopIn)

    async def _take(
        self, wanted: Callable[[Arrival], bool], seconds: float | None, *, stop_at_reject: bool = True
    ) -> Arrival | None:
        deadline = self._deadline(seconds)
        while True:
            for index, item in enumerate(self._inbox):
                if isinstance(item, PduError):
                    raise Failure(f"the target sent a malformed PDU: {item}")
                if wanted(item):
                    del self._inbox[index]
                    return item
            rejected = stop_at_reject and any(isinstance(a, Arrival) and isinstance(a.bhs, Reject) for a in self._inbox)
            if rejected or self.end or not await self._wait(deadline):
                return None

    def _deadline(self, seconds: float | None) -> float:
        return time.monotonic() + (self.patience if seconds is None else seconds)

    async def _wait(self, deadline: float) -> bool:
        """Wait for news; False when the time is up."""
        self._news.clear()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


def reason_name(reason: int) -> str:
    """A Reject reason in words."""
    names = {code.value: code.name for code in RejectReason}
    return f"{reason:#04x} {names.get(reason, 'unknown')}"
