"""What this process serves: targets, their sessions, and who may log in (a login's :class:`TargetDirectory`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from iser.errors import LoginError
from iser.login import (
    ALL_TARGETS,
    DISCOVERY,
    AdmissionRequest,
    LoginResult,
    LoginStatus,
    Redirection,
    TargetAddress,
    TargetRecord,
    login_error,
)
from target.access import AccessPolicy, Grant, Rule
from target.counters import TargetCounters
from target.management import TaskManager
from target.mapped import MappedDevice
from target.scsi import Nexus, TargetDevice
from target.session import Session

__all__ = ["ALL_NUMBERS", "DEFAULT_MAX_SESSIONS", "Elsewhere", "Place", "Registry", "ServedTarget"]

DEFAULT_MAX_SESSIONS: Final = 1024
#: The numbers that sessions may have: those of a TSIH but 0.
ALL_NUMBERS: Final = range(1, 0x10000)


class Place(NamedTuple):
    """A portal: its name in the configuration, its portal group tag, and how an initiator reaches it."""

    name: str
    group: int
    address: TargetAddress = TargetAddress("")


class Elsewhere(NamedTuple):
    """A target that another process serves on ``portals``, or all if there are none.

    ``ports`` has that process's own port beside each portal, where it is reached for certain.
    """

    portals: frozenset[str]
    ports: Mapping[str, int]

    def at(self, place: Place) -> bool:
        """Whether the target is to be reached there."""
        return not self.portals or place.name in self.portals


@dataclass(slots=True, eq=False)
class ServedTarget:
    """One target name with its device, on ``portals`` or, where there are none, on all."""

    device: TargetDevice
    alias: str = ""
    portals: frozenset[str] = frozenset()
    views: dict[frozenset[tuple[int, int]], TargetDevice] = field(default_factory=dict)
    sessions: dict[Session, Nexus] = field(default_factory=dict)
    tasks: TaskManager = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = TaskManager(self.device, self.sessions)

    @property
    def name(self) -> str:
        """The iSCSI name."""
        return self.device.name

    def at(self, place: Place) -> bool:
        """Whether the target is to be reached there."""
        return not self.portals or place.name in self.portals

    def view(self, rule: Rule) -> TargetDevice:
        """The device as an initiator sees it that ``rule`` let in."""
        if rule.luns is None:
            return self.device
        shown = frozenset(rule.luns.items())
        if shown not in self.views:
            self.views[shown] = MappedDevice(self.device, rule.luns)
        return self.views[shown]

    def renew(self, device: TargetDevice, alias: str, portals: frozenset[str]) -> None:
        """Be served differently from now on; the sessions have to be moved to their :meth:`view` at once."""
        self.device, self.alias, self.portals = device, alias, portals
        self.views.clear()
        self.tasks = TaskManager(device, self.sessions)


class Registry:
    """Targets by name, and every session by its TSIH, which is one of ``numbers``."""

    def __init__(
        self,
        targets: Sequence[ServedTarget],
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        policy: AccessPolicy | None = None,
        per_initiator: int = DEFAULT_MAX_SESSIONS,
        numbers: range = ALL_NUMBERS,
    ) -> None:
        #: What other processes serve at the same portals, by name.
        self.elsewhere: Mapping[str, Elsewhere] = {}
        self.targets = {target.name: target for target in targets}
        self.sessions: dict[int, Session] = {}
        self.counters = TargetCounters()
        self.draining = False
        self._max_sessions = max_sessions
        self._policy = policy or AccessPolicy()
        self._per_initiator = per_initiator
        self._reserved: set[int] = set()
        # A login must not look at each of many sessions: how many an initiator has, and whose nexus is whose.
        self._own: Counter[str] = Counter()
        self._by_nexus: dict[tuple[str, str, bytes, int], Session] = {}
        self._numbers = numbers
        self._next_number = 0

    def renew(
        self, targets: Sequence[ServedTarget], max_sessions: int, policy: AccessPolicy, per_initiator: int
    ) -> None:
        """Serve others, to others, from now on; sessions stay, and whoever calls ends those that must not."""
        self.targets.clear()
        self.targets.update((target.name, target) for target in targets)
        self._max_sessions, self._policy, self._per_initiator = max_sessions, policy, per_initiator

    def admit(self, request: AdmissionRequest, place: Place) -> Grant | Redirection:
        """See :class:`TargetDirectory`; ``place`` is where the initiator knocks, with the address that it used."""
        if self.draining:
            raise login_error(LoginStatus.SERVICE_UNAVAILABLE, "this target is shutting down")
        if request.session_type == DISCOVERY:
            return self._policy.admit(request)
        target = self.targets.get(request.target_name)
        if target is None and request.target_name in self.elsewhere:
            return self._redirect(request, place, self.elsewhere[request.target_name])
        if target is None or not target.at(place):
            raise _not_found(request)
        if request.tsih:
            self._refuse_joining(request)
        return self._policy.admit(request, place.group, target.alias)

    def grant_tsih(self, request: AdmissionRequest) -> int:
        """See :class:`TargetDirectory`.  The number is held until :meth:`enter` or :meth:`forget`."""
        if len(self.sessions) + len(self._reserved) >= self._max_sessions and not self._replaces(request):
            raise login_error(LoginStatus.OUT_OF_RESOURCES, f"there are {self._max_sessions} sessions already")
        name = request.initiator_name
        own = self._own[name]
        if own >= self._per_initiator and not self._replaces(request):
            raise login_error(LoginStatus.OUT_OF_RESOURCES, f"{name} has {own} sessions already, which is its limit")
        if len(self.sessions) + len(self._reserved) >= len(self._numbers):
            raise login_error(LoginStatus.OUT_OF_RESOURCES, "every session number is taken")
        tsih = self._next()
        while tsih in self.sessions or tsih in self._reserved:
            tsih = self._next()
        self._reserved.add(tsih)
        return tsih

    def forget(self, tsih: int) -> None:
        """A granted number's login came to nothing."""
        self._reserved.discard(tsih)

    def enter(self, session: Session, nexus: Nexus | None) -> Session | None:
        """A session begins; returns the one of the same nexus that it reinstates, which must be closed."""
        login = session.login
        self._reserved.discard(login.tsih)
        self.sessions[login.tsih] = session
        self._own[login.initiator_name] += 1
        if nexus:
            self.targets[login.target_name].sessions[session] = nexus
        if login.discovery or not login.new_session:
            return None
        key = _nexus_of(login)
        old = self._by_nexus.get(key)
        self._by_nexus[key] = session
        return old

    def leave(self, session: Session) -> None:
        """A session is over.  Idempotent."""
        login = session.login
        if self.sessions.get(login.tsih) is session:
            del self.sessions[login.tsih]
            self._own[login.initiator_name] -= 1
            if not self._own[login.initiator_name]:
                del self._own[login.initiator_name]
        if self._by_nexus.get(_nexus_of(login)) is session:
            del self._by_nexus[_nexus_of(login)]
        target = self.targets.get(login.target_name)
        nexus = target.sessions.pop(session, None) if target else None
        if target and nexus:
            target.device.detach(nexus)

    def records(self, wanted: str, places: Sequence[Place], initiator: str) -> list[TargetRecord]:
        """The answer to SendTargets of one name or of all: what would let ``initiator`` in, with its portals."""
        found = []
        everywhere: dict[str, ServedTarget | Elsewhere] = {**self.targets, **self.elsewhere}
        for name, target in everywhere.items():
            portals = tuple(place.address._replace(tpgt=place.group) for place in places if target.at(place))
            if wanted in (ALL_TARGETS, name) and portals and self._policy.shows(name, initiator):
                found.append(TargetRecord(name, portals))
        return found

    def _next(self) -> int:
        tsih = self._numbers[self._next_number]
        self._next_number = (self._next_number + 1) % len(self._numbers)
        return tsih

    def _redirect(self, request: AdmissionRequest, place: Place, there: Elsewhere) -> Redirection:
        """Before authentication, as an initiator should accept (RFC 7143 section 11.13.5), so that it is done once.

        The rules count here, too: whom none lets in is not told more than that.  The address is without a portal group
        tag (section 13.8).
        """
        if not there.at(place):
            raise _not_found(request)
        self._policy.admit(request)
        return Redirection(TargetAddress(place.address.host, there.ports[place.name]))

    def _refuse_joining(self, request: AdmissionRequest) -> None:
        """A second connection: every session has MaxConnections=1."""
        session = self.sessions.get(request.tsih)
        if session is None or session.login.initiator_name != request.initiator_name:
            raise login_error(LoginStatus.SESSION_DOES_NOT_EXIST, f"there is no session {request.tsih}")
        raise login_error(LoginStatus.TOO_MANY_CONNECTIONS, f"session {request.tsih} has its one connection")

    def _replaces(self, request: AdmissionRequest) -> bool:
        return request.session_type != DISCOVERY and any(
            session.login.initiator_name == request.initiator_name
            and session.login.isid == request.isid
            and session.login.target_name == request.target_name
            for session in self.sessions.values()
        )


def _not_found(request: AdmissionRequest) -> LoginError:
    return login_error(LoginStatus.NOT_FOUND, f"{request.initiator_name} asks for {request.target_name!r}")


def _nexus_of(login: LoginResult) -> tuple[str, str, bytes, int]:
    """What tells I_T nexuses apart (RFC 7143 section 4.4.3)."""
    return login.target_name, login.initiator_name, login.isid, login.params.target_portal_group_tag
