"""An initiator that sends whatever a test wants: login, then PDUs one by one, over a real loopback connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from iser.datamover import IserInitiator, IserInitiatorOptions, TaskBuffers
from iser.errors import IserError, PduError
from iser.login import (
    Admission,
    AdmissionRequest,
    InitiatorLogin,
    InitiatorLoginConfig,
    LoginResult,
    Redirection,
    TargetAddress,
    Wishes,
)
from iser.pdu import COMMAND_READ, COMMAND_WRITE, FINAL, IMMEDIATE, Pdu, ScsiCommand, ScsiResponse
from iser.rdma.api import Provider
from iser.rdma.softiwarp import SoftIwarp, SoftIwarpOptions
from iser.sg import SgList
from target.config import Config
from target.registry import Place, Registry
from target.server import TargetServer

__all__ = [
    "FAST",
    "TARGET",
    "Peer",
    "config",
    "disk",
    "leave_nothing",
    "logged_in",
    "redirecting",
    "served",
    "serving",
    "settled",
    "until",
]

TARGET = "iqn.2026-11.test:disk"
INITIATOR = "iqn.2026-11.test:initiator"
ISID = bytes.fromhex("80cafe000001")
#: Seconds for what comes at once on an idle machine, and late on one that runs as many tests as it has cores.
PATIENCE = 20.0
#: An initiator's RNIC without the waits that only the kernel's needs.
FAST = SoftIwarpOptions(first_fpdu_delay=0, nudge_delay=0)
_T = TypeVar("_T")


def config(**changes: Any) -> Config:
    """One target with a LUN of 1 MiB in memory on a free port; ``changes`` are tables of the file."""
    tables = {"portal": {"p": {"listen": "iser://127.0.0.1:0"}}, "target": disk()}
    return Config.model_validate(tables | changes, context=Path.cwd())


def disk(*faults: dict[str, Any], name: str = TARGET, luns: int = 1, **changes: Any) -> tuple[dict[str, Any], ...]:
    """The ``target`` table of one target; its LUNs of 1 MiB in memory have ``faults``."""
    lun = {"backend": "memory", "size": "1M", "faults": faults} | changes
    return ({"name": name, "lun": tuple(lun | {"id": number} for number in range(luns))},)


def redirecting(monkeypatch: pytest.MonkeyPatch, server: TargetServer, *, always: bool = False) -> None:
    """Have portal "p", the first, send each login to the second, as workers do, or ``always`` to itself."""
    port = server.addresses[0 if always else 1][1]
    admit = Registry.admit

    def elsewhere(self: Registry, request: AdmissionRequest, place: Place) -> Admission | Redirection:
        if place.name == "p" and request.target_name in self.targets:
            return Redirection(TargetAddress("127.0.0.1", port))
        return admit(self, request, place)

    monkeypatch.setattr(Registry, "admit", elsewhere)


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what nothing announces; a test that counts on it asserts it afterwards."""
    for _ in range(round(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)


async def settled() -> None:
    """Let what was sent arrive and be taken up: it needs turns of the loop, and a busy machine has few a second."""
    for _ in range(15):
        await asyncio.sleep(0.001)


async def leave_nothing() -> None:
    """Wait until no task but the test's own is left; fails when one stays."""
    me = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() == {me})
    assert asyncio.all_tasks() == {me}


class Peer:
    """The datamover's user: queues what comes in, with its data copied."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Pdu | BaseException] = asyncio.Queue()
        self.datamover: IserInitiator
        self.login: LoginResult
        self.cmd_sn = 0
        self.itt = 0
        self.ended = asyncio.Event()

    def control_notify(self, pdu: Pdu) -> None:
        self.inbox.put_nowait(pdu._replace(data=bytes(pdu.data)))

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        self.inbox.put_nowait(error)

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        self.ended.set()
        self.inbox.put_nowait(reason or EOFError("closed"))

    async def connect(
        self,
        port: int,
        options: IserInitiatorOptions | None = None,
        rnic: SoftIwarpOptions = FAST,
        host: str = "127.0.0.1",
    ) -> None:
        self.datamover = await IserInitiator.connect(
            SoftIwarp(rnic), host, port, self, options or IserInitiatorOptions(), timeout=PATIENCE
        )

    async def log_in(self, wishes: Wishes | None = None, **changes: Any) -> None:
        who: dict[str, Any] = {"initiator_name": INITIATOR, "target_name": TARGET, "isid": ISID}
        login = InitiatorLogin(InitiatorLoginConfig(**(who | {"wishes": wishes or Wishes()} | changes)))
        request: Pdu | None = login.start()
        while request is not None:
            if login.request_is_final:
                self.datamover.allocate_connection_resources(128)
            self.datamover.send_control(request)
            request = login.receive(await self.receive())
        self.login = login.result
        self.datamover.enable_datamover()
        self.cmd_sn = self.login.cmd_sn

    async def receive(self) -> Pdu:
        """The next PDU; raises what ended the connection, and TimeoutError when nothing comes."""
        item = await asyncio.wait_for(self.inbox.get(), PATIENCE)
        if isinstance(item, BaseException):
            raise item
        return item

    async def expect(self, kind: type[_T]) -> _T:
        """The BHS of the next PDU, which has to be a ``kind``."""
        bhs = (await self.receive()).bhs
        assert isinstance(bhs, kind), bhs
        return bhs

    def number(self, bhs: Any) -> Any:
        """``bhs`` with the next CmdSN and a task tag of its own."""
        self.itt += 1
        numbered = bhs._replace(cmd_sn=self.cmd_sn, itt=self.itt)
        if not bhs.opcode & IMMEDIATE:
            self.cmd_sn = (self.cmd_sn + 1) & 0xFFFFFFFF
        return numbered

    def send(self, bhs: Any, data: bytes = b"") -> int:
        """Send a PDU as the next in order; returns its task tag."""
        numbered = self.number(bhs)
        self.datamover.send_control(Pdu(numbered, data))
        return int(numbered.itt)

    def send_raw(self, message: bytes) -> None:
        """Send bytes as they are, iSER header and all."""
        self.datamover._send(message)

    async def silence(self, seconds: float = 0.05) -> None:
        """Fails when a PDU comes or the connection ends."""
        await asyncio.sleep(seconds)
        assert self.inbox.empty(), self.inbox.get_nowait()

    async def over(self) -> BaseException:
        """Wait for the end of the connection, passing over what comes before it; returns why it ended."""
        while True:
            item = await asyncio.wait_for(self.inbox.get(), PATIENCE)
            if isinstance(item, BaseException):
                return item

    def send_command(
        self,
        cdb: bytes,
        *,
        read: bytearray | None = None,
        write: bytes | None = None,
        edtl: int | None = None,
        immediate: int = 0,
        unsolicited: int = 0,
        lun: int = 0,
        flags: int = 0,
    ) -> int:
        """Send a SCSI command with its tags; returns its task tag."""
        data_in = SgList.of(read, writable=True) if read is not None else None
        data_out = SgList.of(write, writable=False) if write is not None else None
        flags |= (COMMAND_READ if read is not None else 0) | (COMMAND_WRITE if write is not None else 0)
        length = sum(sg.length for sg in (data_in, data_out) if sg)
        bhs = ScsiCommand(
            flags=flags if unsolicited else flags | FINAL,
            data_segment_length=immediate,
            lun=lun,
            edtl=length if edtl is None else edtl,
            cdb=cdb.ljust(16, b"\0"),
        )
        numbered = self.number(bhs)
        buffers = TaskBuffers(data_in, data_out, immediate, max(immediate, unsolicited))
        self.datamover.send_command(Pdu(numbered), buffers)
        return int(numbered.itt)

    async def command(self, cdb: bytes, **how: Any) -> tuple[ScsiResponse, bytes]:
        """Send a command and return its response with the sense bytes."""
        itt = self.send_command(cdb, **how)
        pdu = await self.receive()
        assert isinstance(pdu.bhs, ScsiResponse), pdu.bhs
        assert pdu.bhs.itt == itt
        return pdu.bhs, bytes(pdu.data[2:])

    async def clear_attention(self) -> None:
        """Take the POWER ON unit attention that a new nexus finds."""
        response, sense = await self.command(bytes(6))
        assert (response.status, sense[12]) == (2, 0x29)


@asynccontextmanager
async def serving(
    settings: Config | None = None, provider: Provider | None = None
) -> AsyncIterator[tuple[TargetServer, int]]:
    """A target server in this process, and its port; at the end it must have nothing left."""
    server = await TargetServer.start(settings or config(), provider)
    try:
        yield server, server.addresses[0][1]
    finally:
        await server.close(drain=1)
    assert server.sessions == 0
    assert server.staging.in_use == 0
    await leave_nothing()


@asynccontextmanager
async def served(port: int, wishes: Wishes | None = None, **changes: Any) -> AsyncIterator[Peer]:
    """A peer with a session on a server that runs already, its first unit attention taken; it must leave no key."""
    peer = Peer()
    await peer.connect(port)
    try:
        await peer.log_in(wishes, **changes)
        await peer.clear_attention()
        yield peer
    finally:
        await peer.datamover.close()
    assert peer.datamover.live_keys == 0


@asynccontextmanager
async def logged_in(
    settings: Config | None = None, wishes: Wishes | None = None, **changes: Any
) -> AsyncIterator[Peer]:
    """A peer with a session on a server of its own, its first unit attention taken."""
    async with serving(settings) as (_, port), served(port, wishes, **changes) as peer:
        yield peer
