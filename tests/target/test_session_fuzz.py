"""Random sequences of PDUs, well formed and not, against one target."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iser.errors import IserError
from iser.login import Wishes
from iser.pdu import (
    COMMAND_READ,
    COMMAND_WRITE,
    FINAL,
    IMMEDIATE,
    PLAIN_HEADER,
    AsyncMessage,
    DataOut,
    LogoutRequest,
    NopIn,
    NopOut,
    Pdu,
    Reject,
    ScsiCommand,
    ScsiResponse,
    SnackRequest,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    encode,
    sn_le,
)
from iser.rdma.api import Access, MrType, RegMr, inc_rkey
from iser.scsi.cdb import read_blocks, synchronize_cache, verify, write_blocks
from iser.sg import SgList
from tests.target.peer import Peer, config, disk, leave_nothing, serving

LIMITS = {"initial_r2t": False, "first_burst_length": 8192, "queue_depth": 8}
WISHES = Wishes(initial_r2t=False, first_burst_length=8192)
CDBS = (read_blocks(0, 2), write_blocks(0, 2), bytes(6), verify(0, 2, bytchk=2), synchronize_cache(), b"\xff" * 16)

Step = tuple[str, int, int]

numbers = st.sampled_from([0, 0, 0, 0, 1, 2, -1, 7, 8, 1 << 31])  # how far from the next CmdSN
tags = st.integers(0, 5)
bits = st.sampled_from([0, 0, IMMEDIATE])
attributes = st.sampled_from([0, 0, 0, 1, 2, 3, 4])


def commands() -> st.SearchStrategy[Pdu]:
    return st.builds(
        lambda opcode, flags, attribute, itt, edtl, cdb, lun, data: Pdu(
            ScsiCommand(0x01 | opcode, flags | attribute, itt=itt, edtl=edtl, cdb=cdb.ljust(16, b"\0"), lun=lun << 48),
            bytes(data),
        ),
        bits,
        st.sampled_from([FINAL, FINAL | COMMAND_READ, FINAL | COMMAND_WRITE, COMMAND_WRITE, 0xE0, 0]),
        attributes,
        tags,
        st.sampled_from([0, 100, 1024, 1 << 31]),
        st.sampled_from(CDBS),
        st.sampled_from([0, 0, 0, 9]),
        st.sampled_from([0, 0, 100, 1024]),
    )


def others() -> st.SearchStrategy[Pdu]:
    return st.one_of(
        st.builds(lambda o, itt, n: Pdu(NopOut(opcode=o, itt=itt), bytes(n)), bits, tags, st.integers(0, 200)),
        st.builds(
            lambda o, itt, f, ref: Pdu(TaskManagementRequest(2 | o, FINAL | f, itt=itt + 100, referenced_task_tag=ref)),
            bits, tags, st.sampled_from([1, 2, 4, 5, 8, 3]), tags,
        ),
        st.builds(
            lambda itt, sn, offset, n, f: Pdu(DataOut(flags=f, itt=itt, data_sn=sn, buffer_offset=offset), bytes(n)),
            tags, st.integers(0, 2), st.sampled_from([0, 100, 1024]), st.sampled_from([0, 924, 1024]),
            st.sampled_from([0, FINAL]),
        ),
        st.builds(lambda o, itt: Pdu(TextRequest(4 | o, itt=itt), b"SendTargets=All\0X=1\0"), bits, tags),
        st.builds(lambda o, itt: Pdu(LogoutRequest(6 | o, FINAL | 2, itt=itt)), bits, tags),
        st.just(Pdu(SnackRequest())),
    )  # fmt: skip


steps = st.lists(
    st.tuples(
        st.one_of(commands(), commands(), others()),
        numbers,
        st.booleans(),  # a tag for each direction that the flags name
        st.one_of(st.none(), st.none(), st.none(), st.none(), st.integers(0, 60)),  # cut the message here
    ),
    max_size=25,
)


@contextmanager
def no_faults() -> Iterator[None]:
    """Fails when something logs an error: that is how an internal error shows."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in records] == []


class Watcher(Peer):
    """Checks what comes in: MaxCmdSN never goes back, and no command is answered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.max_cmd_sn = 0
        self.answers = 0

    def control_notify(self, pdu: Pdu) -> None:
        bhs: Any = pdu.bhs
        if hasattr(self, "login"):
            assert sn_le(self.max_cmd_sn, bhs.max_cmd_sn)
            self.max_cmd_sn = bhs.max_cmd_sn
            if not isinstance(bhs, Reject):
                self.cmd_sn = bhs.exp_cmd_sn if sn_le(self.cmd_sn, bhs.exp_cmd_sn) else self.cmd_sn
            self.answers += isinstance(bhs, ScsiResponse)
        super().control_notify(pdu)


def header_of(pdu: Pdu, tagged: bool, key: int, base: int) -> bytes:
    """An iSER header whose tags are good, or none."""
    bhs = pdu.bhs
    if not tagged or not isinstance(bhs, ScsiCommand):
        return PLAIN_HEADER
    read = bool(bhs.flags & COMMAND_READ)
    write = bool(bhs.flags & COMMAND_WRITE)
    flags = 0x10 | (0x04 if read else 0) | (0x08 if write else 0)
    none = bytes(12)
    tag = key.to_bytes(4, "big") + base.to_bytes(8, "big")
    return bytes((flags, 0, 0, 0)) + (tag if write else none) + (tag if read else none)


async def play(script: list[tuple[Pdu, int, bool, int | None]], *, slow: bool) -> None:
    faults = [{"on": "write", "action": "delay", "count": 99, "seconds": 0.003}] if slow else []
    async with serving(config(limits=LIMITS, target=disk(*faults))) as (_, port):
        peer = Watcher()
        await peer.connect(port)
        await peer.log_in(WISHES)
        peer.max_cmd_sn = peer.login.max_cmd_sn
        # One long-lived command whose buffer lends its tag to all the others.
        lent = bytearray(4096)
        key, base = lend(peer, lent)
        accepted_at_most = 0
        for index, (pdu, ahead, tagged, cut) in enumerate(script):
            bhs: Any = pdu.bhs
            if hasattr(bhs, "cmd_sn"):
                bhs = bhs._replace(cmd_sn=(peer.cmd_sn + ahead) & 0xFFFFFFFF)
                if not bhs.opcode & IMMEDIATE and ahead == 0 and cut is None:
                    peer.cmd_sn = (peer.cmd_sn + 1) & 0xFFFFFFFF
            message = header_of(pdu, tagged, key, base) + encode(Pdu(bhs, pdu.data))
            if peer.ended.is_set():
                break
            peer.send_raw(message if cut is None else message[:cut])
            accepted_at_most += isinstance(bhs, ScsiCommand)
            if index % 4 == 3:
                await asyncio.sleep(0)
        await settle(peer)
        assert peer.answers <= accepted_at_most
        if not peer.ended.is_set():
            # The session lives: it must still answer, in any state of its numbers.
            peer.datamover.send_control(Pdu(NopOut(opcode=IMMEDIATE, itt=0x4444, ttt=0xFFFFFFFF, cmd_sn=peer.cmd_sn)))
            await answered(peer)
        await peer.datamover.close()


def lend(peer: Peer, memory: bytearray) -> tuple[int, int]:
    """Register ``memory`` for both directions and return its key and address."""
    region = peer.datamover._pd.alloc_mr(MrType.MEM_REG, 4)
    region.map_sg(SgList.of(memory, writable=True))
    key = inc_rkey(region.rkey)
    everything = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE
    peer.datamover._qp.post_send(RegMr(None, region, key, everything))
    return key, region.iova


async def settle(peer: Peer) -> None:
    """Wait until nothing has come for a moment."""
    for _ in range(100):
        before = peer.inbox.qsize()
        await asyncio.sleep(0.008)
        if peer.inbox.qsize() == before or peer.ended.is_set():
            return


async def answered(peer: Peer) -> None:
    while True:
        try:
            pdu = await peer.receive()
        except (IserError, EOFError):
            return
        assert not isinstance(pdu.bhs, AsyncMessage)
        if isinstance(pdu.bhs, NopIn) and pdu.bhs.itt == 0x4444:
            return


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=steps, slow=st.booleans())
def test_any_sequence_of_pdus_is_answered_or_ends_the_connection(
    script: list[tuple[Pdu, int, bool, int | None]], slow: bool
) -> None:
    with no_faults():
        asyncio.run(play(script, slow=slow))


@st.composite
def orderly(draw: st.DrawFn) -> list[Step]:
    """Commands that a good initiator sends, with aborts among them: kind, blocks, task attribute."""
    kinds = st.sampled_from(["read", "write", "immediate", "unsolicited", "ping", "abort", "wait"])
    return draw(st.lists(st.tuples(kinds, st.integers(1, 16), st.sampled_from([0, 0, 1, 2, 3])), max_size=30))


class Good(Peer):
    """An initiator that keeps to the rules and counts what it is owed."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[int] = set()
        self.functions: dict[int, int] = {}
        self.pings: set[int] = set()
        self.room = 0

    @property
    def owed(self) -> bool:
        return bool(self.tasks or self.functions or self.pings)

    async def take(self) -> None:
        """The next answer, which must be to something that has none yet."""
        bhs: Any = (await self.receive()).bhs
        self.room = bhs.max_cmd_sn
        if isinstance(bhs, ScsiResponse):
            assert bhs.status == 0
            self.tasks.remove(bhs.itt)
        elif isinstance(bhs, NopIn):
            self.pings.remove(bhs.itt)
        else:
            assert isinstance(bhs, TaskManagementResponse)
            task = self.functions.pop(bhs.itt)
            if bhs.response == 0:
                self.tasks.remove(task)
                self.datamover.deallocate_task_resources(task)
            else:
                assert task not in self.tasks

    def act(self, kind: str, blocks: int, attribute: int) -> None:
        data = bytes(blocks * 512)
        if kind == "read":
            self.tasks.add(self.send_command(read_blocks(0, blocks), read=bytearray(data), flags=attribute))
        elif kind == "ping":
            self.pings.add(self.send(NopOut()))
        elif kind == "abort":
            self.abort_one(blocks)
        else:
            immediate = len(data) if kind == "immediate" else 0
            unsolicited = len(data) if kind == "unsolicited" else 0
            cdb = write_blocks(0, blocks)
            itt = self.send_command(cdb, write=data, immediate=immediate, unsolicited=unsolicited, flags=attribute)
            self.tasks.add(itt)
            if kind == "unsolicited":
                self.datamover.send_control(Pdu(DataOut(flags=FINAL, itt=itt), data))

    def abort_one(self, which: int) -> None:
        living = sorted(self.tasks - set(self.functions.values()))
        if living:
            task = living[which % len(living)]
            bhs = TaskManagementRequest(0x42, FINAL | 1, referenced_task_tag=task, ref_cmd_sn=self.cmd_sn - 1)
            self.functions[self.send(bhs)] = task


async def play_orderly(script: list[Step], *, slow: bool) -> None:
    """Every command gets exactly one answer: its response or its abort."""
    faults = [{"on": "write", "action": "delay", "count": 99, "seconds": 0.003}] if slow else []
    async with serving(config(limits=LIMITS, target=disk(*faults))) as (server, port):
        peer = Good()
        await peer.connect(port)
        await peer.log_in(WISHES)
        await peer.clear_attention()
        peer.room = peer.login.max_cmd_sn
        for kind, blocks, attribute in script:
            while not sn_le(peer.cmd_sn, peer.room) or (kind == "wait" and peer.owed):
                await peer.take()
            if kind != "wait":
                peer.act(kind, blocks, attribute)
        while peer.owed:
            await peer.take()
        await peer.silence(0.005)
        assert server.staging.in_use == 0
        assert peer.datamover.live_keys == 0
        await peer.datamover.close()
    await leave_nothing()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=orderly(), slow=st.booleans())
def test_every_command_of_a_good_initiator_has_exactly_one_answer(script: list[Step], slow: bool) -> None:
    with no_faults():
        asyncio.run(play_orderly(script, slow=slow))
