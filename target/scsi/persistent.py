"""RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT (SPC-2 7.21, SPC-4 6.15, 6.16): CDBs and parameters in, state out."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from iser.errors import BackendError
from iser.scsi.codes import (
    INSUFFICIENT_RESERVATION_RESOURCES,
    INVALID_FIELD_IN_CDB,
    INVALID_PARAMETER,
    INVALID_RELEASE,
    PARAMETER_LIST_LENGTH_ERROR,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
)
from iser.scsi.const import ReservationType as Type
from iser.scsi.const import ReserveOut
from target.scsi.gate import CONFLICT
from target.scsi.nexus import Nexus, nexus_id, split_id
from target.scsi.plan import GOOD, Async, Done, Plan, ScsiTask
from target.scsi.reservations import ALL_REGISTRANTS, MAX_REGISTRATIONS, REGISTRANTS_ONLY, Persistent, Reservation
from target.scsi.transportid import decode_initiator, decode_transport_id, encode_transport_id, split_transport_ids
from target.scsi.unit import LogicalUnit

__all__ = [
    "MAX_MOVE_PARAMETERS",
    "MAX_REGISTER_PARAMETERS",
    "read_full_status",
    "read_keys",
    "read_reservation",
    "release",
    "report_capabilities",
    "reserve",
    "reserve_out",
]

#: The longest parameter list of REGISTER AND MOVE: a header and the longest name.
MAX_MOVE_PARAMETERS: Final = 24 + 512
#: The longest one of REGISTER: as many TransportIDs as there may be registrations, with names of usual length.
MAX_REGISTER_PARAMETERS: Final = 28 + MAX_REGISTRATIONS * 128

_PARAMETERS = struct.Struct(">QQ4xB3x")
_MOVE = struct.Struct(">QQxBHI")
_LIST_LENGTH: Final = 24
_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG = 0x02
_THIRD_PARTY_OR_EXTENT = 0x13

_SIP_C, _ATP_C, _PTPL_C = 0x08, 0x04, 0x01
_TMV, _PTPL_A = 0x80, 0x01
_TYPE_MASK: Final = sum(1 << (kind + 8 if kind < 8 else 0) for kind in Type)
_R_HOLDER: Final = 0x01

_TYPES = frozenset(Type)


def reserve(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """RESERVE(6) and (10) of the whole unit, for as long as the nexus lasts."""
    if lu.persistent.keys or lu.reserved_by not in (None, task.nexus):
        return CONFLICT
    if task.cdb[1] & _THIRD_PARTY_OR_EXTENT:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    lu.reserved_by = task.nexus
    lu.update_gate()
    return GOOD


def release(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """RELEASE(6) and (10): of who holds nothing, it does nothing."""
    if lu.persistent.keys:
        return CONFLICT
    if task.cdb[1] & _THIRD_PARTY_OR_EXTENT:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    if lu.reserved_by is task.nexus:
        lu.reserved_by = None
        lu.update_gate()
    return GOOD


# PERSISTENT RESERVE IN


def _answer(task: ScsiTask, data: bytes) -> Done:
    return Done(data_in=data[: int.from_bytes(task.cdb[7:9], "big")])


def read_keys(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """READ KEYS: one for each registered nexus."""
    state = lu.persistent
    keys = b"".join(key.to_bytes(8, "big") for key in state.keys.values())
    return _answer(task, struct.pack(">II", state.generation, len(keys)) + keys)


def read_reservation(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """READ RESERVATION: the holder's key, which is 0 when all registrants are holders."""
    state, held = lu.persistent, lu.persistent.reservation
    if held is None:
        return _answer(task, struct.pack(">II", state.generation, 0))
    key = 0 if held.type in ALL_REGISTRANTS else state.keys[held.holder]
    return _answer(task, struct.pack(">IIQ5xBxx", state.generation, 16, key, held.type))


def report_capabilities(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """REPORT CAPABILITIES: every type, every way to register; APTPL where there is a place to keep it."""
    keeps = _PTPL_C if lu.options.reservations else 0
    kept = _PTPL_A if lu.persistent.aptpl else 0
    return _answer(task, struct.pack(">HBBHxx", 8, _SIP_C | _ATP_C | keeps, _TMV | kept, _TYPE_MASK))


def read_full_status(lu: LogicalUnit, task: ScsiTask) -> Plan:
    """READ FULL STATUS: which nexus is registered, with what key, and who holds; each target port by itself."""
    state = lu.persistent
    body = b"".join(_full_status(state, name, key) for name, key in state.keys.items())
    return _answer(task, struct.pack(">II", state.generation, len(body)) + body)


def _full_status(state: Persistent, name: str, key: int) -> bytes:
    held = state.reservation
    flags, kind = (_R_HOLDER, int(held.type)) if held and state.holds(name) else (0, 0)
    initiator, port = split_id(name)
    transport = encode_transport_id(initiator)
    return struct.pack(">Q4xBB4xHI", key, flags, kind, port, len(transport)) + transport


# PERSISTENT RESERVE OUT


@dataclass(frozen=True, slots=True)
class _Request:
    """The parameters of PERSISTENT RESERVE OUT; ``kind`` is None where the CDB has no type that exists.

    A registration is of this nexus; with ``all_ports``, of its initiator port by every target port.  ``listed`` are
    initiator ports that shall be registered too, or None without SPEC_I_PT.
    """

    lu: LogicalUnit
    nexus: Nexus
    kind: Type | None
    key: int
    service_key: int
    aptpl: bool
    all_ports: bool = False
    listed: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return self.nexus.id

    @property
    def registered(self) -> bool:
        """Whether the nexus is registered with the key that it gives."""
        return self.lu.persistent.keys.get(self.name) == self.key


@dataclass(frozen=True, slots=True)
class _Change:
    """What a service action does: the new state, and who is to be told what, the requesting nexus never."""

    state: Persistent
    preempted: frozenset[str] = frozenset()
    cleared: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()
    abort: bool = False


_Action = Callable[[_Request], "Done | _Change"]


def reserve_out(action: ReserveOut) -> Callable[[LogicalUnit, ScsiTask], Plan]:
    """The handler of one service action."""

    def handle(lu: LogicalUnit, task: ScsiTask) -> Plan:
        length = int.from_bytes(task.cdb[5:9], "big")
        if not _LIST_LENGTH <= length <= _LONGEST.get(action, _LIST_LENGTH):
            return lu.check(PARAMETER_LIST_LENGTH_ERROR, field=5)
        return Async(partial(_reserve_out, lu, task, action, length), length)

    return handle


async def _reserve_out(lu: LogicalUnit, task: ScsiTask, action: ReserveOut, length: int) -> Done:
    data = bytes(task.data_out)
    if len(data) < length:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR)
    async with lu.reservation_lock:
        if action is ReserveOut.REGISTER_AND_MOVE:
            outcome = _move(lu, task.nexus, data)
        else:
            request = _parse(lu, task, action, data)
            outcome = request if isinstance(request, Done) else _ACTIONS[action](request)
        if isinstance(outcome, Done):
            return outcome
        failed = await _commit(lu, task.nexus, outcome)
    if failed is None and outcome.abort and lu.abort_tasks is not None:  # not under the lock: they may wait for it
        victims = [other for other in lu.nexuses if other.id in outcome.preempted and other is not task.nexus]
        await lu.abort_tasks(lu, victims)
    return failed or GOOD


def _parse(lu: LogicalUnit, task: ScsiTask, action: ReserveOut, data: bytes) -> Done | _Request:
    """The parameters of every service action but REGISTER AND MOVE."""
    scope, kind = task.cdb[2] >> 4, task.cdb[2] & 0x0F
    key, service_key, flags = _PARAMETERS.unpack_from(data)
    listed = None
    if flags & _SPEC_I_PT:
        listed = _listed_ports(lu, data) if action is ReserveOut.REGISTER else None
        if listed is None:
            return lu.check(INVALID_PARAMETER, parameter=24 if action is ReserveOut.REGISTER else 20)
    elif len(data) > _LIST_LENGTH:
        return lu.check(PARAMETER_LIST_LENGTH_ERROR, field=5)
    whole = Type(kind) if kind in _TYPES and not scope else None
    aptpl, all_ports = bool(flags & _APTPL), bool(flags & _ALL_TG_PT)
    return _Request(lu, task.nexus, whole, key, service_key, aptpl, all_ports, listed)


def _listed_ports(lu: LogicalUnit, data: bytes) -> frozenset[str] | None:
    """The initiator ports that the TransportIDs in ``data`` name; None where one cannot be understood.

    A whole initiator stands for those of its ports that are logged in to the unit.
    """
    listed = data[_LIST_LENGTH + 4 :]
    length = int.from_bytes(data[_LIST_LENGTH : _LIST_LENGTH + 4], "big")
    transports = split_transport_ids(listed[:length]) if length <= len(listed) else None
    ports: set[str] = set()
    for transport in transports or ():
        port, initiator = decode_transport_id(transport), decode_initiator(transport)
        found = {port} if port else {nexus.initiator for nexus in lu.nexuses if _is_of(nexus, initiator)}
        if not found:
            return None
        ports |= found
    return None if transports is None else frozenset(ports)


def _is_of(nexus: Nexus, initiator: str | None) -> bool:
    return nexus.initiator.partition(",")[0] == initiator


async def _commit(lu: LogicalUnit, nexus: Nexus, change: _Change) -> Done | None:
    """Store the new state if it shall outlive a loss of power, then let it take effect; what failed, if anything."""
    old, new = lu.persistent, change.state
    store = lu.options.reservations
    if store is not None and (old.aptpl or new.aptpl) and old != new:
        try:
            await asyncio.to_thread(store.save, new)
        except BackendError as error:
            return lu.complete_error(error, write=True)
    lu.persistent = new
    lu.update_gate()
    lu.attention(REGISTRATIONS_PREEMPTED, but=nexus, among=change.preempted)
    lu.attention(RESERVATIONS_PREEMPTED, but=nexus, among=change.cleared)
    lu.attention(RESERVATIONS_RELEASED, but=nexus, among=change.released)
    return None


def _told_of_release(old: Reservation | None, new: Persistent) -> frozenset[str]:
    """Those who learn of the end of a reservation: who had access by it, as a registrant (SPC-4 5.13.11.2)."""
    if old is None or new.reservation is not None or old.type not in (*REGISTRANTS_ONLY, *ALL_REGISTRANTS):
        return frozenset()
    return frozenset(new.keys)


def _register(request: _Request) -> Done | _Change:
    """REGISTER: who is registered already cannot register others."""
    known = request.lu.persistent.keys.get(request.name, 0)
    if known != request.key:
        return CONFLICT
    if known and request.listed is not None:
        return request.lu.check(INVALID_PARAMETER, parameter=20)
    return _register_anyway(request)


def _register_anyway(request: _Request) -> Done | _Change:
    """REGISTER AND IGNORE EXISTING KEY.  Ports that are listed keep the keys that they have."""
    lu, nexus, old = request.lu, request.nexus, request.lu.persistent
    if request.aptpl and lu.options.reservations is None:
        return lu.check(INVALID_PARAMETER, parameter=20)
    if request.name not in old.keys and not request.service_key:
        return GOOD
    ports = {nexus.port, *lu.ports} if request.all_ports else {nexus.port}
    names = {nexus_id(initiator, port) for initiator in request.listed or () for port in ports} - old.keys.keys()
    names |= {nexus_id(nexus.initiator, port) for port in ports}
    if request.service_key and len(old.keys.keys() | names) > MAX_REGISTRATIONS:
        return lu.check(INSUFFICIENT_RESERVATION_RESOURCES)
    new = old.register(sorted(names), request.service_key, request.aptpl)
    return _Change(new, released=_told_of_release(old.reservation, new))


def _reserve(request: _Request) -> Done | _Change:
    old = request.lu.persistent
    if not request.registered:
        return CONFLICT
    if request.kind is None:
        return request.lu.check(INVALID_FIELD_IN_CDB, field=2)
    held = old.reservation
    if held is None:
        return _Change(old.reserve(request.name, request.kind))
    return GOOD if old.holds(request.name) and held.type == request.kind else CONFLICT


def _release(request: _Request) -> Done | _Change:
    old = request.lu.persistent
    held = old.reservation
    if not request.registered:
        return CONFLICT
    if held is None or not old.holds(request.name):
        return GOOD
    if held.type != request.kind:
        return request.lu.check(INVALID_RELEASE, field=2)
    new = old.release()
    return _Change(new, released=_told_of_release(held, new))


def _clear(request: _Request) -> Done | _Change:
    old = request.lu.persistent
    return _Change(old.clear(), cleared=frozenset(old.keys)) if request.registered else CONFLICT


def _preempt(request: _Request, *, abort: bool = False) -> Done | _Change:
    """PREEMPT: of a registration only, or of the reservation too (SPC-4 5.13.11.2.5, figure 11)."""
    lu, old = request.lu, request.lu.persistent
    if not request.registered:
        return CONFLICT
    held = old.reservation
    victims = {name for name, key in old.keys.items() if key == request.service_key}
    everyone = held is not None and held.type in ALL_REGISTRANTS and not request.service_key
    takes_over = everyone or (held is not None and held.type not in ALL_REGISTRANTS and held.holder in victims)
    if not request.service_key and not everyone:
        return lu.check(INVALID_PARAMETER, parameter=8)
    if not takes_over:
        return (
            _Change(old.preempt(request.name, victims, None), frozenset(victims), abort=abort) if victims else CONFLICT
        )
    if request.kind is None:
        return lu.check(INVALID_FIELD_IN_CDB, field=2)
    victims = (set(old.keys) if everyone else victims) - {request.name}
    new = old.preempt(request.name, victims, request.kind)
    changed = held is not None and held.type != request.kind
    return _Change(new, frozenset(victims), released=frozenset(new.keys if changed else ()), abort=abort)


def _move(lu: LogicalUnit, nexus: Nexus, data: bytes) -> Done | _Change:
    """REGISTER AND MOVE: another nexus gets registered, and gets the reservation."""
    old = lu.persistent
    key, service_key, flags, port, length = _MOVE.unpack_from(data)
    held = old.reservation
    if old.keys.get(nexus.id) != key:
        return CONFLICT
    if held is None:
        return lu.check(INVALID_FIELD_IN_CDB, field=1)
    if held.type in ALL_REGISTRANTS or held.holder != nexus.id:
        return CONFLICT
    initiator = decode_transport_id(data[_MOVE.size : _MOVE.size + length])
    name = nexus_id(initiator, port) if initiator and port in lu.ports else nexus.id
    if not service_key or name == nexus.id:
        return lu.check(INVALID_PARAMETER, parameter=_fault_of_move(service_key, initiator))
    if flags & _APTPL and lu.options.reservations is None:
        return lu.check(INVALID_PARAMETER, parameter=17)
    return _Change(old.move(nexus.id, name, service_key, bool(flags & _UNREG), bool(flags & _APTPL)))


def _fault_of_move(service_key: int, initiator: str | None) -> int:
    """The byte of the parameters that is to blame: the new key, the target port, or the TransportID."""
    if not service_key:
        return 8
    return 24 if initiator is None else 18


_LONGEST: Final = {
    ReserveOut.REGISTER: MAX_REGISTER_PARAMETERS,
    ReserveOut.REGISTER_AND_MOVE: MAX_MOVE_PARAMETERS,
}
_ACTIONS: Final[dict[ReserveOut, _Action]] = {
    ReserveOut.REGISTER: _register,
    ReserveOut.RESERVE: _reserve,
    ReserveOut.RELEASE: _release,
    ReserveOut.CLEAR: _clear,
    ReserveOut.PREEMPT: _preempt,
    ReserveOut.PREEMPT_AND_ABORT: partial(_preempt, abort=True),
    ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY: _register_anyway,
}
