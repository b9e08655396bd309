"""Both ends of an iSER connection over loopback, without an iSCSI layer above."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from iser.datamover import IserInitiator, IserInitiatorOptions, IserTarget, TaskBuffers
from iser.errors import IserError, PduError
from iser.login import NegotiatedParameters
from iser.pdu import COMMAND_READ, COMMAND_WRITE, FINAL, Pdu, ScsiCommand, ScsiResponse
from iser.rdma.api import ConnectRequest
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.sg import SgList

__all__ = ["Pair", "User", "connected", "connected_with"]

DEPTH = 8


class User:
    """An iSCSI layer that writes down what it is told; ``react`` may do more with a PDU."""

    def __init__(self) -> None:
        self.pdus: asyncio.Queue[Pdu] = asyncio.Queue()
        self.malformed: list[tuple[PduError, bytes]] = []
        self.moved: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.ends: list[IserError | None] = []
        self.ended = asyncio.Event()
        self.react: Callable[[Pdu], None] = lambda pdu: None
        self.moved_react: Callable[[], None] = lambda: None

    def control_notify(self, pdu: Pdu) -> None:
        self.pdus.put_nowait(pdu._replace(data=bytes(pdu.data)))
        self.react(pdu)

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        self.malformed.append((error, bhs))
        self.pdus.put_nowait(Pdu(ScsiCommand()))

    def data_completion_notify(self, itt: int, sn: int) -> None:
        self.moved.put_nowait((itt, sn))
        self.moved_react()

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        raise error

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        self.ends.append(reason)
        self.ended.set()

    async def next(self) -> Pdu:
        return await asyncio.wait_for(self.pdus.get(), 5)


@dataclass
class Pair:
    """An initiator and a target in full-feature phase, each with its user."""

    initiator: IserInitiator
    target: IserTarget
    above: User
    below: User

    def command(
        self,
        itt: int = 1,
        read: SgList | None = None,
        write: SgList | None = None,
        immediate: int = 0,
        unsolicited: int = 0,
    ) -> None:
        """Send a command with these lists."""
        flags = FINAL if unsolicited <= immediate else 0
        flags |= (COMMAND_READ if read else 0) | (COMMAND_WRITE if write else 0)
        edtl = sum(sg.length for sg in (read, write) if sg)
        bhs = ScsiCommand(flags=flags, data_segment_length=immediate, itt=itt, edtl=edtl)
        self.initiator.send_command(Pdu(bhs), TaskBuffers(read, write, immediate, max(immediate, unsolicited)))

    async def news(self) -> Pdu | IserError | None:
        """What the initiator's user hears next: a PDU, or why the connection ended."""
        heard, ended = asyncio.ensure_future(self.above.next()), asyncio.ensure_future(self.above.ended.wait())
        await asyncio.wait((heard, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if heard.done():
            return heard.result()
        heard.cancel()
        return self.above.ends[0]

    async def respond(self, itt: int = 1, **fields: int) -> Pdu:
        """Answer a command and return what the initiator's user got."""
        self.target.send_control(Pdu(ScsiResponse(**({"itt": itt} | fields))))
        return await self.above.next()


async def _connect(
    listen: SoftIwarp, options: IserInitiatorOptions, remote_invalidate: bool
) -> tuple[Pair, Callable[[], object]]:
    above, below = User(), User()
    target = IserTarget(below)
    accepted = asyncio.Event()
    over = asyncio.Event()

    async def on_request(request: ConnectRequest) -> None:
        await target.accept(request, DEPTH, remote_invalidate=remote_invalidate)
        accepted.set()
        await over.wait()

    listener = await listen.listen("127.0.0.1", 0, on_request)
    try:
        fast = SoftIwarp(SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0))
        initiator = await IserInitiator.connect(fast, *listener.address, above, options, 5)
        await asyncio.wait_for(accepted.wait(), 5)
    finally:
        await listener.close()
    return Pair(initiator, target, above, below), over.set


@asynccontextmanager
async def connected_with(
    options: IserInitiatorOptions | None = None, *, remote_invalidate: bool = True, provider: SoftIwarp | None = None
) -> AsyncIterator[Pair]:
    """A pair in the login phase; both ends are closed at the end, and leave no key."""
    options = options or IserInitiatorOptions(queue_depth=DEPTH)
    pair, over = await _connect(provider or SoftIwarp(), options, remote_invalidate)
    try:
        yield pair
    finally:
        await asyncio.gather(pair.initiator.close(), pair.target.close())
        over()
        await asyncio.sleep(0)
    assert pair.initiator.live_keys == 0
    assert pair.initiator.planner.in_use == 0


@asynccontextmanager
async def connected(
    options: IserInitiatorOptions | None = None,
    params: NegotiatedParameters | None = None,
    *,
    remote_invalidate: bool = True,
    provider: SoftIwarp | None = None,
) -> AsyncIterator[Pair]:
    """A pair in full-feature phase.  The first frame of the initiator, which lets the target speak, has gone."""
    async with connected_with(options, remote_invalidate=remote_invalidate, provider=provider) as pair:
        for end in (pair.initiator, pair.target):
            end.notice_key_values(params or NegotiatedParameters())
            end.allocate_connection_resources(DEPTH)
            end.enable_datamover()
        yield pair
