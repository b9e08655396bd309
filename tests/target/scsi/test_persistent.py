"""RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT, from CDB to sense."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from iser.scsi import cdb
from iser.scsi.const import Opcode, ReservationType, ReserveIn, ReserveOut
from target.backends.memory import MemoryBackend
from target.scsi import GOOD, Done, LogicalUnit, Nexus, ReadMedia, ReservationStore, WriteMedia
from target.scsi.persistent import MAX_MOVE_PARAMETERS, MAX_REGISTER_PARAMETERS
from target.scsi.reservations import MAX_REGISTRATIONS
from target.scsi.transportid import encode_transport_id
from tests.target.scsi.bench import SIZE, Bench, codes_of, unit

CONFLICT = 0x18
A, B, C = (f"iqn.2026-11.host:{name},i,0x00023d00000{number}" for number, name in enumerate("abc"))
TYPES = list(ReservationType)
SHARED = [kind for kind in TYPES if kind >= 5]
EVERYONE = [ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS]
WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
RESERVE_6, RELEASE_6 = bytes.fromhex("160000000000"), bytes.fromhex("170000000000")


class Cluster(Bench):
    """Three initiators on one unit."""

    def __init__(self, *units: LogicalUnit) -> None:
        super().__init__(*units)
        self.a, self.b, self.c = (self.attach(name) for name in (A, B, C))

    async def out(
        self,
        nexus: Nexus,
        action: ReserveOut,
        key: int = 0,
        new: int = 0,
        kind: int = 0,
        flags: int = 0,
        scope: int = 0,
    ) -> Done:
        command = struct.pack(">BBBxxIx", Opcode.PERSISTENT_RESERVE_OUT, action, scope << 4 | kind, 24)
        return await self.run(command, nexus=nexus, data_out=struct.pack(">QQ4xB3x", key, new, flags))

    async def ok(self, nexus: Nexus, action: ReserveOut, key: int = 0, new: int = 0, kind: int = 0) -> None:
        assert await self.out(nexus, action, key, new, kind) == GOOD

    async def conflict(self, nexus: Nexus, action: ReserveOut, key: int = 0, new: int = 0, kind: int = 0) -> None:
        assert (await self.out(nexus, action, key, new, kind)).status == CONFLICT

    async def registered(self, *nexuses: Nexus) -> None:
        """Every nexus has its own key: 1 for a, 2 for b, 3 for c."""
        for nexus in nexuses:
            await self.ok(nexus, ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY, 0, self.key(nexus))

    def key(self, nexus: Nexus) -> int:
        return [self.a, self.b, self.c].index(nexus) + 1

    def read_in(self, action: ReserveIn, nexus: Nexus | None = None, length: int = 4096) -> bytes:
        plan = self.start(struct.pack(">BB5xHx", Opcode.PERSISTENT_RESERVE_IN, action, length), nexus=nexus)
        assert isinstance(plan, Done)
        assert plan.status == 0
        return plan.data_in

    @property
    def keys(self) -> list[int]:
        data = self.read_in(ReserveIn.READ_KEYS)
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        return [key for (key,) in struct.iter_unpack(">Q", data[8:])]

    @property
    def generation(self) -> int:
        return int.from_bytes(self.read_in(ReserveIn.READ_KEYS)[:4], "big")

    @property
    def held(self) -> tuple[int, int] | None:
        """The key and the type of the reservation."""
        data = self.read_in(ReserveIn.READ_RESERVATION)
        if len(data) == 8:
            return None
        _, length, key, kind = struct.unpack(">IIQ5xBxx", data)
        assert length == 16
        return key, kind

    def attention(self, nexus: Nexus) -> tuple[int, int] | None:
        plan = self.start(cdb.test_unit_ready(), nexus=nexus)
        assert isinstance(plan, Done)
        return codes_of(plan)[1:] if plan.status == 2 else None

    def may(self, nexus: Nexus) -> str:
        """What of reading and writing ``nexus`` may do."""
        letters = {"r": (cdb.read_blocks(0, 1), ReadMedia), "w": (cdb.write_blocks(0, 1), WriteMedia)}
        allowed = ""
        for letter, (command, expected) in letters.items():
            plan = self.start(command, nexus=nexus)
            assert isinstance(plan, expected) or plan == Done(CONFLICT)
            allowed += letter if isinstance(plan, expected) else ""
        return allowed


# RESERVE and RELEASE


def test_reserve_keeps_others_out_until_it_is_released() -> None:
    bench = Cluster()
    for _ in range(2):
        assert bench.done(RESERVE_6, nexus=bench.a) == GOOD
    assert bench.done(RESERVE_6, nexus=bench.b).status == CONFLICT
    assert bench.done(RELEASE_6, nexus=bench.b) == GOOD  # which it does not hold
    assert (bench.may(bench.a), bench.may(bench.b)) == ("rw", "")
    for passing in (cdb.inquiry(), cdb.report_luns(), cdb.request_sense(), bytes.fromhex("4d000000000000004000")):
        assert bench.done(passing, nexus=bench.b).status == 0
    for stopped in (cdb.test_unit_ready(), cdb.mode_sense(0x3F), cdb.read_capacity_10()):
        assert bench.done(stopped, nexus=bench.b).status == CONFLICT
        assert bench.done(stopped, nexus=bench.a).status == 0
    for nexus in (bench.a, bench.b):
        assert bench.done(bytes.fromhex("5e000000000000100000"), nexus=nexus).status == CONFLICT
    assert bench.done(RELEASE_6, nexus=bench.a) == GOOD
    assert bench.done(bytes.fromhex("56000000000000000000"), nexus=bench.b) == GOOD
    assert bench.done(bytes.fromhex("57000000000000000000"), nexus=bench.b) == GOOD
    assert bench.may(bench.a) == "rw"


@pytest.mark.parametrize("how", ["lost", "unit reset", "target reset"])
def test_a_reservation_ends_with_its_nexus_and_with_a_reset(how: str) -> None:
    bench = Cluster()
    assert bench.done(RESERVE_6, nexus=bench.a) == GOOD
    if how == "lost":
        bench.device.detach(bench.a)
    elif how == "unit reset":
        bench.device.lun_reset(bench.device.luns[0])
    else:
        bench.device.target_reset()
    bench.b.pending.clear()
    assert bench.done(RESERVE_6, nexus=bench.b) == GOOD


async def test_reserve_and_registrations_exclude_each_other() -> None:
    bench = Cluster()
    await bench.registered(bench.a)
    for command in (RESERVE_6, RELEASE_6):
        assert bench.done(command, nexus=bench.a).status == CONFLICT
    assert bench.keys == [1]


def test_third_party_and_extent_reservations_are_refused() -> None:
    for flags in (0x01, 0x02, 0x10):
        assert Bench().codes(bytes((0x56, flags, 0, 0, 0, 0, 0, 0, 0, 0))) == (5, 0x24, 0)
        assert Bench().codes(bytes((0x17, flags, 0, 0, 0, 0))) == (5, 0x24, 0)


# Registration


async def test_registering_changing_and_unregistering() -> None:
    bench = Cluster()
    await bench.conflict(bench.a, ReserveOut.REGISTER, 5, 1)
    await bench.ok(bench.a, ReserveOut.REGISTER, 0, 0)  # nothing to do
    assert (bench.keys, bench.generation) == ([], 0)
    await bench.ok(bench.a, ReserveOut.REGISTER, 0, 1)
    await bench.ok(bench.b, ReserveOut.REGISTER, 0, 1)  # the same key, another nexus
    assert (bench.keys, bench.generation) == ([1, 1], 2)
    await bench.conflict(bench.a, ReserveOut.REGISTER, 0, 7)
    await bench.ok(bench.a, ReserveOut.REGISTER, 1, 7)
    assert sorted(bench.keys) == [1, 7]
    await bench.ok(bench.a, ReserveOut.REGISTER, 7, 0)
    await bench.ok(bench.b, ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY, 99, 0)
    await bench.ok(bench.b, ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY, 99, 0)
    assert (bench.keys, bench.generation) == ([], 5)


async def test_a_registration_outlives_its_session_and_resets() -> None:
    bench = Cluster()
    await bench.registered(bench.a)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=EA)
    bench.device.detach(bench.a)
    bench.device.target_reset()
    again = bench.attach(A)
    for nexus in (bench.b, bench.nexus):
        nexus.pending.clear()
    assert (bench.held, bench.may(again), bench.may(bench.b)) == ((1, EA), "rw", "")


async def test_the_number_of_registrations_is_bounded() -> None:
    bench = Cluster()
    for number in range(MAX_REGISTRATIONS):
        await bench.ok(bench.attach(f"iqn.x{number},i,0x1"), ReserveOut.REGISTER, 0, 1)
    assert codes_of(await bench.out(bench.a, ReserveOut.REGISTER, 0, 1)) == (5, 0x55, 2)
    assert len(bench.keys) == MAX_REGISTRATIONS


# Reservations


@pytest.mark.parametrize(
    ("kind", "registered", "unregistered"),
    [(1, "r", "r"), (3, "", ""), (5, "rw", "r"), (6, "rw", ""), (7, "rw", "r"), (8, "rw", "")],
)
async def test_who_may_do_what(kind: int, registered: str, unregistered: str) -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    assert bench.held == (0 if kind in EVERYONE else 1, kind)
    assert [bench.may(nexus) for nexus in (bench.a, bench.b, bench.c)] == ["rw", registered, unregistered]
    for always in (cdb.inquiry(), cdb.test_unit_ready(), cdb.read_capacity_16(), cdb.request_sense()):
        assert bench.done(always, nexus=bench.c).status == 0
    eject = bytes.fromhex("1b0000000000")
    assert bench.done(eject, nexus=bench.c).status == CONFLICT
    assert bench.done(cdb.start_stop_unit(), nexus=bench.c) == GOOD
    assert bench.done(bytes.fromhex("1e0000000100"), nexus=bench.c).status == CONFLICT
    assert bench.done(bytes.fromhex("1e0000000000"), nexus=bench.c) == GOOD


@pytest.mark.parametrize("kind", TYPES)
async def test_reserve_and_release(kind: int) -> None:
    bench = Cluster()
    await bench.conflict(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    await bench.registered(bench.a, bench.b)
    await bench.conflict(bench.a, ReserveOut.RESERVE, 2, kind=kind)
    for _ in range(2):
        await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    other = WE if kind != WE else EA
    await bench.conflict(bench.a, ReserveOut.RESERVE, 1, kind=other)
    if kind in EVERYONE:
        await bench.ok(bench.b, ReserveOut.RESERVE, 2, kind=kind)
    else:
        await bench.conflict(bench.b, ReserveOut.RESERVE, 2, kind=kind)
        await bench.ok(bench.b, ReserveOut.RELEASE, 2, kind=kind)  # not its own
    generation = bench.generation
    assert codes_of(await bench.out(bench.a, ReserveOut.RELEASE, 1, kind=other)) == (5, 0x26, 4)
    await bench.conflict(bench.a, ReserveOut.RELEASE, 9, kind=kind)
    assert bench.held is not None
    await bench.ok(bench.a, ReserveOut.RELEASE, 1, kind=kind)
    await bench.ok(bench.a, ReserveOut.RELEASE, 1, kind=kind)
    assert [bench.held, bench.generation] == [None, generation]
    assert bench.attention(bench.b) == ((0x2A, 4) if kind in SHARED else None)
    assert bench.attention(bench.a) is None
    assert bench.attention(bench.c) is None


@pytest.mark.parametrize("kind", TYPES)
async def test_the_holder_unregisters(kind: int) -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    await bench.ok(bench.a, ReserveOut.REGISTER, 1, 0)
    if kind in EVERYONE:
        assert bench.held == (0, kind)
        await bench.ok(bench.b, ReserveOut.REGISTER, 2, 0)
    assert bench.held is None
    told = kind in SHARED and kind not in EVERYONE
    assert bench.attention(bench.b) == ((0x2A, 4) if told else None)


async def test_wrong_scopes_and_types() -> None:
    bench = Cluster()
    await bench.registered(bench.a)
    for kind in set(range(16)) - set(TYPES):
        assert codes_of(await bench.out(bench.a, ReserveOut.RESERVE, 1, kind=kind)) == (5, 0x24, 0)
    assert codes_of(await bench.out(bench.a, ReserveOut.RESERVE, 1, kind=WE, scope=1)) == (5, 0x24, 0)


async def test_clear() -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=WE)
    await bench.conflict(bench.c, ReserveOut.CLEAR)
    await bench.conflict(bench.b, ReserveOut.CLEAR, 1)
    generation = bench.generation
    await bench.ok(bench.b, ReserveOut.CLEAR, 2)
    assert (bench.keys, bench.held, bench.generation) == ([], None, generation + 1)
    assert [bench.attention(nexus) for nexus in (bench.a, bench.b, bench.c)] == [(0x2A, 3), None, None]


# Preempting


async def test_preempting_a_registration() -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b, bench.c)
    await bench.conflict(bench.a, ReserveOut.PREEMPT, 1, 99, WE)
    await bench.conflict(bench.a, ReserveOut.PREEMPT, 2, 3, WE)
    assert codes_of(await bench.out(bench.a, ReserveOut.PREEMPT, 1, 0, WE)) == (5, 0x26, 0)
    generation = bench.generation
    await bench.ok(bench.a, ReserveOut.PREEMPT, 1, 2, WE)
    assert (sorted(bench.keys), bench.held, bench.generation) == ([1, 3], None, generation + 1)
    assert [bench.attention(nexus) for nexus in (bench.a, bench.b, bench.c)] == [None, (0x2A, 5), None]


@pytest.mark.parametrize("kind", [1, 3, 5, 6])
async def test_preempting_the_holder(kind: int) -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b, bench.c)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    assert codes_of(await bench.out(bench.b, ReserveOut.PREEMPT, 2, 1, 0)) == (5, 0x24, 0)
    await bench.ok(bench.b, ReserveOut.PREEMPT, 2, 1, EA)
    assert (sorted(bench.keys), bench.held) == ([2, 3], (2, EA))
    assert bench.attention(bench.a) == (0x2A, 5)
    assert bench.attention(bench.c) == ((0x2A, 4) if kind != EA else None)
    assert bench.attention(bench.b) is None


@pytest.mark.parametrize("kind", EVERYONE)
async def test_preempting_all_registrants(kind: int) -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b, bench.c)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=kind)
    await bench.ok(bench.b, ReserveOut.PREEMPT, 2, 3, WE)  # a key: that registration only
    assert (sorted(bench.keys), bench.held) == ([1, 2], (0, kind))
    await bench.ok(bench.b, ReserveOut.PREEMPT, 2, 0, WE)  # no key: everybody
    assert (bench.keys, bench.held) == ([2], (2, WE))
    assert bench.attention(bench.a) == (0x2A, 5)


async def test_preempting_oneself_changes_the_type() -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=WE)
    await bench.ok(bench.a, ReserveOut.PREEMPT, 1, 1, EA)
    assert (sorted(bench.keys), bench.held) == ([1, 2], (1, EA))


async def test_preempt_and_abort_ends_the_victims_tasks() -> None:
    bench = Cluster()
    aborted: list[tuple[LogicalUnit, list[Nexus]]] = []

    async def abort(lu: LogicalUnit, nexuses: Sequence[Nexus]) -> None:
        assert not lu.reservation_lock.locked()
        aborted.append((lu, list(nexuses)))

    bench.device.abort_tasks = abort
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.PREEMPT, 1, 2, WE)
    assert aborted == []
    assert bench.attention(bench.b) == (0x2A, 5)
    await bench.registered(bench.b)
    await bench.ok(bench.a, ReserveOut.PREEMPT_AND_ABORT, 1, 2, WE)
    assert aborted == [(bench.device.luns[0], [bench.b])]


# Other initiator ports and other target ports


async def register(bench: Cluster, nexus: Nexus, listed: bytes, key: int = 0, new: int = 5, flags: int = 8) -> Done:
    """REGISTER with SPEC_I_PT and the TransportIDs ``listed``."""
    data = struct.pack(">QQ4xB3xI", key, new, flags, len(listed)) + listed
    command = struct.pack(">BBxxxIx", Opcode.PERSISTENT_RESERVE_OUT, ReserveOut.REGISTER, len(data))
    return await bench.run(command, nexus=nexus, data_out=data)


def initiator_id(name: str) -> bytes:
    """The TransportID of a whole initiator, format 00b."""
    text = name.encode().ljust(20, b"\0")
    text += bytes(4 - len(text) % 4)
    return struct.pack(">BxH", 5, len(text)) + text


def status(bench: Cluster) -> list[tuple[int, int, int, int, bytes]]:
    """(key, flags, type, target port, TransportID) of each registration, from READ FULL STATUS."""
    data = bench.read_in(ReserveIn.READ_FULL_STATUS)
    offset, found = 8, []
    while offset < len(data):
        key, flags, kind, port, length = struct.unpack_from(">Q4xBB4xHI", data, offset)
        found.append((key, flags, kind, port, data[offset + 24 : offset + 24 + length]))
        offset += 24 + length
    return found


def registrations(bench: Cluster) -> set[tuple[int, int, bytes]]:
    """(key, target port, TransportID) of each registration."""
    return {(key, port, transport) for key, _, _, port, transport in status(bench)}


async def test_a_nexus_registers_for_other_initiator_ports() -> None:
    bench = Cluster()
    absent = "iqn.2026-11.host:absent,i,0x00023d000009"
    assert await register(bench, bench.a, encode_transport_id(B) + encode_transport_id(absent)) == GOOD
    assert registrations(bench) == {(5, 1, encode_transport_id(name)) for name in (A, B, absent)}
    assert bench.generation == 1
    await bench.ok(bench.b, ReserveOut.RESERVE, 5, kind=SHARED[0])
    assert (bench.may(bench.a), bench.may(bench.c)) == ("rw", "r")


async def test_a_whole_initiator_stands_for_its_ports_that_are_logged_in() -> None:
    bench = Cluster()
    second = "iqn.2026-11.host:b,i,0x00023d000077"
    bench.attach(second)
    assert await register(bench, bench.a, initiator_id("iqn.2026-11.HOST:b")) == GOOD
    assert registrations(bench) == {(5, 1, encode_transport_id(name)) for name in (A, B, second)}
    assert codes_of(await register(bench, bench.c, initiator_id("iqn.2026-11.host:absent"))) == (5, 0x26, 0)


async def test_who_is_registered_already_keeps_its_key_and_registers_nobody_else() -> None:
    bench = Cluster()
    await bench.registered(bench.b)
    assert await register(bench, bench.a, encode_transport_id(B)) == GOOD
    assert registrations(bench) == {(2, 1, encode_transport_id(B)), (5, 1, encode_transport_id(A))}
    assert codes_of(await register(bench, bench.a, encode_transport_id(C), 5, 6)) == (5, 0x26, 0)
    assert (await register(bench, bench.a, encode_transport_id(C), 4, 6)).status == CONFLICT
    assert (await register(bench, bench.c, encode_transport_id(A), 1)).status == CONFLICT
    assert await register(bench, bench.c, encode_transport_id(A), 0, 0) == GOOD  # and nothing was done
    assert len(bench.keys) == 2


@pytest.mark.parametrize(
    "listed",
    [
        encode_transport_id(B)[:-4],
        encode_transport_id(B) + b"\x45\0",
        encode_transport_id(B) + b"\x06" + bytes(23),  # of SAS
        initiator_id("iqn.2026-11.host:b,i,0x00023d000001"),
        b"\x45\0\0\x14" + b"iqn.x".ljust(20, b"\0"),
        b"\x45\0\0\x14" + b"iqn.\xff,i,0x1".ljust(20, b"\0"),
    ],
)
async def test_if_one_transport_id_is_wrong_nobody_is_registered(listed: bytes) -> None:
    bench = Cluster()
    assert codes_of(await register(bench, bench.a, listed)) == (5, 0x26, 0)
    assert bench.keys == []


async def test_a_list_of_transport_ids_that_is_longer_than_the_parameters() -> None:
    bench = Cluster()
    listed = encode_transport_id(B)
    data = struct.pack(">QQ4xB3xI", 0, 5, 8, len(listed) + 1) + listed
    command = struct.pack(">BBxxxIx", Opcode.PERSISTENT_RESERVE_OUT, ReserveOut.REGISTER, len(data))
    assert codes_of(await bench.run(command, data_out=data)) == (5, 0x26, 0)
    assert codes_of(await register(bench, bench.a, listed, flags=0)) == (5, 0x1A, 0)  # more than a header, and no bit
    for action in (ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY, ReserveOut.RESERVE):
        assert codes_of(await bench.out(bench.a, action, 0, 5, flags=8)) == (5, 0x26, 0)


async def test_a_list_that_would_register_too_many_registers_nobody() -> None:
    bench = Cluster()
    names = [f"iqn.x:{number},i,0x00023d000001" for number in range(MAX_REGISTRATIONS)]
    listed = b"".join(map(encode_transport_id, names))
    assert codes_of(await register(bench, bench.a, listed)) == (5, 0x55, 2)
    assert bench.keys == []
    assert await register(bench, bench.a, b"".join(map(encode_transport_id, names[1:]))) == GOOD
    assert len(bench.keys) == MAX_REGISTRATIONS


async def test_a_registration_is_of_one_target_port_unless_it_is_of_all() -> None:
    bench = Cluster()
    bench.set_ports(1, 2, 9)
    other = bench.attach(A, 9)
    await bench.registered(bench.a)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=SHARED[0])
    assert (bench.may(bench.a), bench.may(other)) == ("rw", "r")
    assert await bench.out(bench.a, ReserveOut.REGISTER, 1, 3, flags=4) == GOOD
    assert registrations(bench) == {(3, port, encode_transport_id(A)) for port in (1, 2, 9)}
    assert bench.may(other) == "rw"
    assert [(flags, port) for _, flags, _, port, _ in status(bench) if flags] == [(1, 1)]  # one of them holds
    assert await bench.out(other, ReserveOut.REGISTER, 3, 0, flags=4) == GOOD
    assert (bench.keys, bench.held) == ([], None)


async def test_all_target_ports_count_for_listed_initiator_ports_too() -> None:
    bench = Cluster()
    bench.set_ports(1, 2)
    assert await register(bench, bench.a, encode_transport_id(B), flags=8 | 4) == GOOD
    assert registrations(bench) == {(5, port, encode_transport_id(name)) for port in (1, 2) for name in (A, B)}


async def test_a_reservation_moves_to_another_target_port() -> None:
    bench = Cluster()
    bench.set_ports(1, 2)
    other = bench.attach(A, 2)
    await bench.registered(bench.a)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=EA)
    assert codes_of(await move(bench, bench.a, 1, 9, A, port=3)) == (5, 0x26, 0)
    assert await move(bench, bench.a, 1, 9, A, flags=2, port=2) == GOOD
    assert (bench.may(bench.a), bench.may(other)) == ("", "rw")
    assert registrations(bench) == {(9, 2, encode_transport_id(A))}


# REGISTER AND MOVE


async def move(bench: Cluster, nexus: Nexus, key: int, new: int, to: str, flags: int = 0, port: int = 1) -> Done:
    identity = encode_transport_id(to)
    data = struct.pack(">QQxBHI", key, new, flags, port, len(identity)) + identity
    command = struct.pack(">BBxxxIx", Opcode.PERSISTENT_RESERVE_OUT, ReserveOut.REGISTER_AND_MOVE, len(data))
    return await bench.run(command, nexus=nexus, data_out=data)


async def test_register_and_move() -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    assert codes_of(await move(bench, bench.a, 1, 9, C)) == (5, 0x24, 0)  # nothing is reserved
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=WE)
    assert (await move(bench, bench.b, 2, 9, C)).status == CONFLICT
    assert (await move(bench, bench.a, 2, 9, C)).status == CONFLICT
    assert codes_of(await move(bench, bench.a, 1, 0, C)) == (5, 0x26, 0)
    assert codes_of(await move(bench, bench.a, 1, 9, A)) == (5, 0x26, 0)
    assert codes_of(await move(bench, bench.a, 1, 9, C, port=2)) == (5, 0x26, 0)
    assert codes_of(await move(bench, bench.a, 1, 9, C, flags=1)) == (5, 0x26, 0)  # APTPL
    assert codes_of(await move(bench, bench.a, 1, 9, "no port")) == (5, 0x26, 0)
    assert await move(bench, bench.a, 1, 9, C) == GOOD
    assert (sorted(bench.keys), bench.held, bench.may(bench.c)) == ([1, 2, 9], (9, WE), "rw")
    assert await move(bench, bench.c, 9, 8, A, flags=2) == GOOD  # UNREG
    assert (sorted(bench.keys), bench.held) == ([2, 8], (8, WE))


async def test_a_reservation_of_all_registrants_cannot_be_moved() -> None:
    bench = Cluster()
    await bench.registered(bench.a)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=EVERYONE[0])
    assert (await move(bench, bench.a, 1, 9, C)).status == CONFLICT


# Parameters and reports


@pytest.mark.parametrize("length", [0, 23, 25, MAX_MOVE_PARAMETERS + 1])
def test_wrong_lengths(length: int) -> None:
    for action in ReserveOut:
        if length >= 25 and action in (ReserveOut.REGISTER, ReserveOut.REGISTER_AND_MOVE):
            length = {ReserveOut.REGISTER: MAX_REGISTER_PARAMETERS + 1}.get(action, MAX_MOVE_PARAMETERS + 1)
        command = struct.pack(">BBxxxIx", Opcode.PERSISTENT_RESERVE_OUT, action, length)
        assert Bench().codes(command) == (5, 0x1A, 0)


async def test_data_that_is_cut_short() -> None:
    bench = Cluster()
    plan = bench.start(struct.pack(">BBxxxIx", Opcode.PERSISTENT_RESERVE_OUT, 0, 24), data_out=bytes(8))
    assert codes_of(await plan.run()) == (5, 0x1A, 0)  # type: ignore[union-attr]  # an Async


async def test_what_is_not_supported_is_refused() -> None:
    bench = Cluster()
    assert codes_of(await bench.out(bench.a, ReserveOut.REGISTER, 0, 1, flags=1)) == (5, 0x26, 0)  # APTPL
    for opcode in (Opcode.PERSISTENT_RESERVE_IN, Opcode.PERSISTENT_RESERVE_OUT):
        known = len(ReserveIn if opcode == Opcode.PERSISTENT_RESERVE_IN else ReserveOut)
        for action in range(known, 32):
            assert bench.sense(bytes((opcode, action))).field == 1


async def test_capabilities(tmp_path: Path) -> None:
    bench = Cluster(unit(), unit(lun=1, reservations=ReservationStore(tmp_path / "pr")))
    assert bench.read_in(ReserveIn.REPORT_CAPABILITIES).hex() == "00080c80ea010000"
    keeping = Cluster(bench.device.luns[1])
    assert keeping.read_in(ReserveIn.REPORT_CAPABILITIES).hex() == "00080d80ea010000"
    assert await keeping.out(keeping.a, ReserveOut.REGISTER, 0, 1, flags=1) == GOOD
    assert keeping.read_in(ReserveIn.REPORT_CAPABILITIES).hex() == "00080d81ea010000"


async def test_full_status() -> None:
    bench = Cluster()
    await bench.registered(bench.a, bench.b)
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=WE)
    data = bench.read_in(ReserveIn.READ_FULL_STATUS)
    assert data[:8] == struct.pack(">II", 2, len(data) - 8)
    assert status(bench) == [(1, 1, 1, 1, encode_transport_id(A)), (2, 0, 0, 1, encode_transport_id(B))]
    assert bench.read_in(ReserveIn.READ_FULL_STATUS, length=5) == data[:5]


# On disk


def storing(path: Path) -> Cluster:
    return Cluster(unit(MemoryBackend(SIZE), reservations=ReservationStore(path)))


async def test_what_was_asked_for_outlives_the_target(tmp_path: Path) -> None:
    path = tmp_path / "pr"
    bench = storing(path)
    await bench.ok(bench.a, ReserveOut.REGISTER, 0, 1)
    assert not path.exists()
    assert await bench.out(bench.b, ReserveOut.REGISTER, 0, 2, flags=1) == GOOD  # APTPL, of all registrations
    await bench.ok(bench.a, ReserveOut.RESERVE, 1, kind=WE)
    again = storing(path)
    assert (sorted(again.keys), again.held, again.generation) == ([1, 2], (1, WE), 0)
    assert (again.may(again.a), again.may(again.b)) == ("rw", "r")
    assert await again.out(again.a, ReserveOut.REGISTER, 1, 5) == GOOD  # without APTPL
    assert not path.exists()
    assert storing(path).keys == []


async def test_what_cannot_be_kept_does_not_take_effect(tmp_path: Path) -> None:
    bench = storing(tmp_path / "missing" / "pr")
    assert codes_of(await bench.out(bench.a, ReserveOut.REGISTER, 0, 1, flags=1)) == (4, 0x44, 0)
    assert (bench.keys, bench.generation) == ([], 0)


async def test_requests_at_once_are_taken_one_by_one(tmp_path: Path) -> None:
    bench = storing(tmp_path / "pr")
    nexuses = [bench.attach(f"iqn.x{number},i,0x1") for number in range(20)]
    requests = [bench.out(nexus, ReserveOut.REGISTER, 0, 1, flags=1) for nexus in nexuses]
    assert await asyncio.gather(*requests) == [GOOD] * 20
    assert (len(bench.keys), bench.generation) == (20, 20)
    assert len(storing(tmp_path / "pr").keys) == 20
