"""The short way of plain commands against the long one: the same PDUs, the same blocks, the same counts."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import initiator
from initiator.url import Portal
from iser.datamover import TaskBuffers
from iser.errors import IserError
from iser.login import InitiatorLogin, InitiatorLoginConfig, Wishes
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    DataIn,
    DataOut,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    decode_bhs,
    encode,
    encode_bhs,
)
from iser.scsi.cdb import FLAG_FUA, NACA, PROTECT_MASK, read_blocks, write_blocks
from iser.scsi.const import Opcode
from iser.sg import SgList
from target.counters import LunCounters
from target.quick import COMMAND_10, COMMAND_16, QuickWay
from target.server import TargetServer
from tests.target.peer import INITIATOR, ISID, TARGET, Peer, config, disk, served, serving, settled, until

BLOCKS = 2048
BURST = 16384  # of a session here
READ, WRITE = FINAL | COMMAND_READ, FINAL | COMMAND_WRITE
PORTAL = {"p": {"listen": "iscsi://127.0.0.1:0"}}
U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


class Raw:
    """An initiator of plain iSCSI that sends bytes and keeps what comes."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.cmd_sn = 0

    async def log_in(self, **wishes: Any) -> None:
        wanted = Wishes(max_recv_data_segment_length=8192, first_burst_length=BURST, **wishes)
        login = InitiatorLogin(
            InitiatorLoginConfig(
                initiator_name=INITIATOR, target_name=TARGET, isid=ISID, wishes=wanted, transport="tcp"
            )
        )
        request: Pdu | None = login.start()
        while request is not None:
            await self.send(encode(request))
            bhs, data = await self.receive()
            request = login.receive(Pdu(bhs, data))
        self.cmd_sn = login.result.cmd_sn

    async def send(self, wire: bytes) -> None:
        await self._loop.sock_sendall(self.sock, wire)

    async def receive(self) -> tuple[Any, bytes]:
        bhs = decode_bhs(await self._exactly(48))
        length = bhs.data_segment_length
        return bhs, (await self._exactly(length + 3 & ~3))[:length]

    async def until_pong(self, itt: int) -> list[tuple[Any, bytes]]:
        """All that comes before the answer to the NOP of that tag, and that."""
        found = []
        while True:
            found.append(await self.receive())
            if found[-1][0].opcode == 0x20 and found[-1][0].itt == itt:
                return found

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = await asyncio.wait_for(self._loop.sock_recv(self.sock, length - len(data)), 10)
            assert part, "the connection ended"
            data += part
        return data


@dataclass(frozen=True)
class Step:
    """A command: its CDB's parts, and what the BHS around it says."""

    opcode: int
    lba: int
    blocks: int
    edtl: int
    flags: int
    immediate: int  # bytes of data with it
    cdb_flags: int = 0
    control: int = 0
    lun: int = 0
    ahead: int = 0  # of the next CmdSN
    tag: int | None = None
    bhs_opcode: int = 0x01

    def wire(self, raw: Raw, number: int) -> bytes:
        cdb = bytearray(16)
        cdb[0], cdb[1] = self.opcode, self.cdb_flags
        if self.opcode in (Opcode.READ_10, Opcode.WRITE_10):
            cdb[2:6], cdb[7:9], cdb[9] = self.lba.to_bytes(4, "big"), self.blocks.to_bytes(2, "big"), self.control
        else:
            cdb[2:10], cdb[10:14], cdb[15] = self.lba.to_bytes(8, "big"), self.blocks.to_bytes(4, "big"), self.control
        bhs = ScsiCommand(
            opcode=self.bhs_opcode,
            flags=self.flags,
            lun=self.lun << 48,
            itt=number if self.tag is None else self.tag,
            edtl=self.edtl,
            cmd_sn=raw.cmd_sn + self.ahead & 0xFFFFFFFF,
            cdb=bytes(cdb),
        )
        if not self.ahead and not self.bhs_opcode & IMMEDIATE:
            raw.cmd_sn = raw.cmd_sn + 1 & 0xFFFFFFFF
        return encode(Pdu(bhs, bytes([number % 251]) * self.immediate))


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Plain commands mostly; each detail is odd now and then."""
    write = draw(st.booleans())
    blocks = draw(st.sampled_from([1, 2, 4, 8, 0]))  # all of a sequence comes in at once
    odd = draw(st.sampled_from([None] * 8 + ["edtl", "flags", "cdb", "control", "lba", "lun", "data", "sn", "now"]))
    step: dict[str, Any] = {
        "opcode": draw(
            st.sampled_from([Opcode.WRITE_10, Opcode.WRITE_16] if write else [Opcode.READ_10, Opcode.READ_16])
        ),
        "lba": draw(st.integers(0, 40)),
        "blocks": blocks,
        "edtl": blocks * 512,
        "flags": (WRITE if write else READ) | draw(st.sampled_from([0, 1])),
        "immediate": min(blocks * 512, BURST) if write else 0,
    }
    changes: dict[str | None, dict[str, Any]] = {
        None: {},
        "edtl": {"edtl": draw(st.sampled_from([0, 100, 512, 4096, 8192]))},
        "flags": {"flags": draw(st.sampled_from([READ, WRITE, FINAL, READ | 2, READ | 3, WRITE | 2, 0xE0, READ | 4]))},
        "cdb": {"cdb_flags": draw(st.sampled_from([0x10, 0x20, PROTECT_MASK, 0x02]))},
        "control": {"control": draw(st.sampled_from([NACA, 0x01]))},
        "lba": {"lba": draw(st.sampled_from([BLOCKS - 1, BLOCKS, (1 << 32) - 1]))},
        "lun": {"lun": draw(st.sampled_from([1, 5]))},
        "data": {"immediate": draw(st.sampled_from([0, 512, 1024]))},
        "sn": {"ahead": draw(st.sampled_from([1, 5, -1, 1 << 31]))},
        "now": {"bhs_opcode": 0x41},
    }
    return Step(**(step | changes[odd]))


def watch(patch: pytest.MonkeyPatch, taken: list[bool]) -> None:
    """Note for each command whether the short way took it."""
    real = QuickWay.start

    def start(self: QuickWay, buffer: memoryview, offset: int, data: memoryview) -> bool:
        taken.append(real(self, buffer, offset, data))
        return taken[-1]

    patch.setattr(QuickWay, "start", start)


async def outcome(sequence: Sequence[Step], quick: bool, taken: list[bool] | None = None) -> Any:
    """What a session gets for ``sequence``: PDUs, blocks, and counts but for the times."""
    with pytest.MonkeyPatch.context() as patch:
        if not quick:
            patch.setattr(QuickWay, "start", lambda *_: False)
        elif taken is not None:
            watch(patch, taken)
        async with serving(config(portal=PORTAL, target=disk(luns=2))) as (server, port):
            raw = Raw(port)
            await raw.log_in()
            for number in (0, 1):  # takes the unit attentions
                await raw.send(Step(0, 0, 0, 0, FINAL, 0, lun=number).wire(raw, 1000 + number))
                await raw.receive()
            wire = b"".join(step.wire(raw, number) for number, step in enumerate(sequence))
            ping = encode(Pdu(NopOut(opcode=IMMEDIATE, itt=5000, cmd_sn=raw.cmd_sn)))
            await raw.send(wire + ping)
            answers = await raw.until_pong(5000)
            stored = [bytes(unit.backend.views(0, 64 * 512)[0]) for unit in units(server)]
            counts = {key: (c.commands, c.read_bytes, c.written_bytes, c.errors) for key, c in server_counts(server)}
            assert all(sum(c.latency) == c.commands for _, c in server_counts(server))
            raw.sock.close()
            await until(lambda: not server.connections)
            return answers, stored, counts


def units(server: TargetServer) -> list[Any]:
    return list(server._targets[0].device.luns.values())


def server_counts(server: TargetServer) -> list[tuple[Any, LunCounters]]:
    return list(server.lun_counters().items())


@settings(max_examples=25, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=8))
def test_it_does_what_the_long_way_does(sequence: list[Step]) -> None:
    async def both() -> None:
        assert await outcome(sequence, quick=True) == await outcome(sequence, quick=False)

    asyncio.run(both())


PLAIN = {
    "read": Step(Opcode.READ_10, 3, 8, 4096, READ, 0),
    "read 16": Step(Opcode.READ_16, 3, 8, 4096, READ | 1, 0),
    "write": Step(Opcode.WRITE_10, 3, 8, 4096, WRITE, 4096),
    "write 16": Step(Opcode.WRITE_16, 3, 8, 4096, WRITE | 1, 4096),
    "second LUN": Step(Opcode.WRITE_10, 3, 8, 4096, WRITE, 4096, lun=1),
    "longest read": Step(Opcode.READ_10, 0, 16, 8192, READ, 0),
    "longest write": Step(Opcode.WRITE_10, 0, 32, BURST, WRITE, BURST),
}
OTHERS = {
    "too long for one Data-In": Step(Opcode.READ_10, 0, 17, 17 * 512, READ, 0),
    "some of it immediate": Step(Opcode.WRITE_10, 0, 8, 4096, WRITE, 512),
    "FUA": Step(Opcode.WRITE_10, 0, 8, 4096, WRITE, 4096, cdb_flags=FLAG_FUA),
    "ORDERED": Step(Opcode.READ_10, 0, 8, 4096, READ | 2, 0),
    "no blocks": Step(Opcode.READ_10, 0, 0, 0, FINAL, 0),
    "less expected": Step(Opcode.READ_10, 0, 8, 512, READ, 0),
    "beyond the end": Step(Opcode.READ_10, BLOCKS, 8, 4096, READ, 0),
    "protection": Step(Opcode.READ_10, 0, 8, 4096, READ, 0, cdb_flags=0x20),
    "ACA": Step(Opcode.READ_10, 0, 8, 4096, READ, 0, control=NACA),
    "no such LUN": Step(Opcode.READ_10, 0, 8, 4096, READ, 0, lun=9),
    "wrong direction": Step(Opcode.READ_10, 0, 8, 4096, WRITE, 4096),
    "out of order": Step(Opcode.READ_10, 0, 8, 4096, READ, 0, ahead=1),
    "reserved tag": Step(Opcode.READ_10, 0, 8, 4096, READ, 0, tag=RESERVED_TAG),
    "another command": Step(Opcode.VERIFY_10, 0, 8, 4096, READ, 0),
}


@pytest.mark.parametrize("name", PLAIN)
async def test_it_takes_what_is_plain(name: str) -> None:
    taken: list[bool] = []
    answers, _, _ = await outcome([PLAIN[name]], True, taken)
    assert taken[-1]
    assert [type(bhs) for bhs, _ in answers[:-1]] == [DataIn if "read" in name else ScsiResponse]
    assert answers[0][0].status == 0


@pytest.mark.parametrize("name", OTHERS)
async def test_it_leaves_what_is_not(name: str) -> None:
    taken: list[bool] = []
    await outcome([OTHERS[name]], True, taken)
    assert not taken[-1]


async def test_units_in_a_special_state_and_held_commands_take_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    watch(monkeypatch, taken)
    async with serving(config(portal=PORTAL)) as (server, port):
        raw = Raw(port)
        await raw.log_in()
        (unit,) = units(server)
        (session,) = (connection.session for connection in server.connections)
        assert session

        async def read(expected: bool, status: int = 0) -> None:
            await raw.send(PLAIN["read"].wire(raw, len(taken)))
            bhs, _ = await raw.receive()
            assert (taken[-1], bhs.status) == (expected, status)

        await read(False, 2)  # the unit attention
        await read(True)
        unit.ejected = True
        unit.update_gate()
        await read(False, 2)
        unit.ejected = False
        unit.update_gate()
        await read(True)
        unit.set_protection(True)
        await raw.send(PLAIN["write"].wire(raw, 77))
        assert (await raw.receive())[0].status == 2
        unit.set_protection(False)
        unit.write_through = True
        await raw.send(PLAIN["write"].wire(raw, 77))
        assert ((await raw.receive())[0].status, taken[-1]) == (0, False)
        unit.write_through = False
        # One that came early goes first when its turn has come.
        early = Step(Opcode.READ_10, 0, 8, 4096, READ, 0, ahead=1).wire(raw, 78)
        await raw.send(early + PLAIN["read"].wire(raw, 79))
        assert [(await raw.receive())[0].itt for _ in range(2)] == [79, 78]
        raw.cmd_sn += 1
        await read(True)
        session.move(server._targets[0].device)  # LUN fields are looked up anew
        await read(True)
        raw.sock.close()
        await until(lambda: not server.connections)


@pytest.mark.parametrize("digest", ["header_digest", "data_digest"])
async def test_with_digests_reads_take_the_long_way(digest: str) -> None:
    async with serving(config(portal=PORTAL)) as (_, port):
        url = initiator.Url(Portal("127.0.0.1", port, "tcp"), TARGET)
        async with await initiator.connect(url, **{digest: True}) as lun:
            data = os.urandom(4096)
            await lun.write(1, data)
            assert await lun.read(1, 8) == data


async def test_a_file_in_memory_is_served_at_once_and_gives_its_staging_back() -> None:
    file = os.memfd_create("disk")
    os.truncate(file, 1 << 20)
    target = disk(backend="file", path=f"/proc/self/fd/{file}", size="1M")
    async with serving(config(portal=PORTAL, target=target)) as (server, port):
        raw = Raw(port)
        await raw.log_in()
        await raw.send(Step(0, 0, 0, 0, FINAL, 0).wire(raw, 1000))
        await raw.receive()
        await raw.send(PLAIN["write"].wire(raw, 7) + PLAIN["read"].wire(raw, 8))
        assert (await raw.receive())[0].status == 0
        bhs, data = await raw.receive()
        assert (bhs.itt, bhs.status, data) == (8, 0, b"\x07" * 4096)
        await until(lambda: not server.staging.in_use)
        assert server.staging.in_use == 0
        assert os.pread(file, 4096, 3 * 512) == b"\x07" * 4096
        # Without staging memory they wait for it, in the long way.
        taken = server.staging.try_take(server.staging.limit)
        assert taken is not None
        await raw.send(PLAIN["read"].wire(raw, 9))
        await settled()
        server.staging.give(taken)
        assert (await raw.receive())[0].itt == 9
        raw.sock.close()
        await until(lambda: not server.connections)
    os.close(file)


@settings(max_examples=50, deadline=None)
@given(st.tuples(U8, U8, U32, U8, U16, U8), U64, st.tuples(*[U32] * 4), U8)
def test_a_command_of_10_is_the_declared_one(
    cdb: tuple[int, int, int, int, int, int], lun: int, words: tuple[int, int, int, int], flags: int
) -> None:
    opcode, cdb_flags, lba, group, blocks, control = cdb
    wire = bytes((opcode, cdb_flags)) + lba.to_bytes(4, "big") + bytes([group]) + blocks.to_bytes(2, "big")
    itt, edtl, cmd_sn, exp_stat_sn = words
    bhs = ScsiCommand(1, flags, 0, 512, lun, itt, edtl, cmd_sn, exp_stat_sn, wire + bytes([control]) + bytes(6))
    assert COMMAND_10.unpack_from(encode_bhs(bhs)) == (1, flags, 512, lun, *words, *cdb)


def test_a_command_of_16_has_its_parts_where_the_builders_put_them() -> None:
    for cdb in (read_blocks(0x123456789A, 0x8001), write_blocks(0x123456789A, 0x8001)):
        assert COMMAND_16.unpack_from(encode_bhs(ScsiCommand(cdb=cdb))) == (0x123456789A, 0x8001, 0, 0)


def test_what_cannot_be_plain_is_rejected_as_ever() -> None:
    """A Data-Out for no task right behind a plain write: order is kept."""

    async def run() -> None:
        async with serving(config(portal=PORTAL)) as (server, port):
            raw = Raw(port)
            await raw.log_in()
            await raw.send(Step(0, 0, 0, 0, FINAL, 0).wire(raw, 1000))
            await raw.receive()
            stray = encode(Pdu(DataOut(flags=FINAL, itt=7), b"x" * 512))
            await raw.send(PLAIN["write"].wire(raw, 7) + stray + PLAIN["read"].wire(raw, 8))
            kinds = [type((await raw.receive())[0]) for _ in range(3)]
            assert kinds == [ScsiResponse, Reject, DataIn]
            raw.sock.close()
            await until(lambda: not server.connections)

    asyncio.run(run())


# Over iSER


async def iser_outcome(sequence: Sequence[Step], quick: bool) -> Any:
    """As :func:`outcome`, of a session over iSER: PDUs, data, blocks, and counts."""
    with pytest.MonkeyPatch.context() as patch:
        if not quick:
            patch.setattr(QuickWay, "start", lambda *_: False)
        async with serving(config(target=disk(luns=2))) as (server, port), served(port) as peer:
            peer.send_command(bytes(6), lun=1 << 48)
            await peer.receive()
            memories = [iser_send(peer, step, number) for number, step in enumerate(sequence)]
            ping = peer.send(NopOut(opcode=IMMEDIATE))
            answers: list[Any] = []
            try:
                while not answers or answers[-1].bhs.itt != ping:
                    answers.append(await peer.receive())
            except (IserError, EOFError) as error:
                answers.append(type(error))
            stored = [bytes(unit.backend.views(0, 64 * 512)[0]) for unit in units(server)]
            counts = {key: (c.commands, c.read_bytes, c.written_bytes, c.errors) for key, c in server_counts(server)}
            return answers, memories, stored, counts


def iser_send(peer: Peer, step: Step, number: int) -> bytearray:
    """Send a command with the tags that its directions ask for; the memory that a read fills."""
    raw = Raw.__new__(Raw)
    raw.cmd_sn = peer.cmd_sn
    bhs = decode_bhs(step.wire(raw, number + 2000))
    peer.cmd_sn = raw.cmd_sn
    assert isinstance(bhs, ScsiCommand)
    memory = bytearray(step.edtl)
    data_in = SgList.of(memory, writable=True) if step.flags & COMMAND_READ and step.edtl else None
    size = max(step.edtl, step.immediate) if step.flags & COMMAND_WRITE else 0
    data_out = SgList.of(bytes([number % 251]) * size, writable=False) if size else None
    immediate = step.immediate if data_out else 0
    bhs = bhs._replace(data_segment_length=immediate)
    peer.datamover.send_command(Pdu(bhs), TaskBuffers(data_in, data_out, immediate, immediate))
    return memory


@settings(max_examples=25, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=8))
def test_over_iser_it_does_what_the_long_way_does(sequence: list[Step]) -> None:
    async def both() -> None:
        assert await iser_outcome(sequence, quick=True) == await iser_outcome(sequence, quick=False)

    asyncio.run(both())


@pytest.mark.parametrize("name", ["read", "read 16", "write", "write 16", "second LUN"])
async def test_over_iser_it_takes_what_is_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    watch(monkeypatch, taken)
    answers, _, _, _ = await iser_outcome([PLAIN[name]], quick=True)
    assert taken[-1]
    assert answers[0].bhs.status == 0
