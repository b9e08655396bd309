"""Persistent reservations of our target between two initiators in the guest's kernel, by ``sg_persist`` of sg3_utils.

Two initiator names in one guest are two I_T nexuses and two disks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, NamedTuple

import pytest

from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.process import TargetProcess
from tests.interop.peers.sessions import KernelSession, prepare_guest
from tests.interop.recorder import Notes, feature
from tests.lab import Machine

_NAME: Final = "iqn.2026-11.lab:shared"
_SLOW_NAME: Final = "iqn.2026-11.lab:slow"
_SCHEMES: Final = ("iscsi", "iser")
_TRANSPORTS: Final = ("tcp", "iser")  # of open-iscsi, as the portals
_DELAY: Final = 45  # seconds that a read of the slow LUN takes
_PATIENT_READS: Final = 200  # of the slow LUN, before it becomes slow: the kernel reads some when it finds a disk
_TABLES: Final = f"""
[[target]]
name = "{_NAME}"
[[target.lun]]
id = 0
backend = "file"
path = "shared.img"
size = "16M"
[[target]]
name = "{_SLOW_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = "16M"
faults = [{{ on = "read", nth = {_PATIENT_READS}, count = 9, action = "delay", seconds = {_DELAY} }}]
"""
_ALPHA, _BETA = 0xA1FA, 0xBE7A
#: Exit codes of sg3_utils.
_GOOD, _ILLEGAL, _ATTENTION, _CONFLICT = 0, 5, 6, 24

_WRITE_EXCLUSIVE, _EXCLUSIVE = 1, 3
_WRITE_EXCLUSIVE_REGISTRANTS, _EXCLUSIVE_REGISTRANTS = 5, 6
_WRITE_EXCLUSIVE_ALL, _EXCLUSIVE_ALL = 7, 8


class Access(NamedTuple):
    """What a nexus may do while another one holds a reservation."""

    read: bool
    write: bool


class Rights(NamedTuple):
    """Of a nexus that is not registered, and of one that is (SPC-4 table 68)."""

    stranger: Access
    registrant: Access


_ALL, _READ, _NONE = Access(True, True), Access(True, False), Access(False, False)
_RIGHTS: Final = {
    _WRITE_EXCLUSIVE: Rights(_READ, _READ),
    _EXCLUSIVE: Rights(_NONE, _NONE),
    _WRITE_EXCLUSIVE_REGISTRANTS: Rights(_READ, _ALL),
    _EXCLUSIVE_REGISTRANTS: Rights(_NONE, _ALL),
    _WRITE_EXCLUSIVE_ALL: Rights(_READ, _ALL),
    _EXCLUSIVE_ALL: Rights(_NONE, _ALL),
}


class Initiator:
    """One of the two: its session, its disk and its key."""

    def __init__(self, session: KernelSession, key: int) -> None:
        self.session = session
        self.key = key

    def out(self, action: str, kind: int = 0, *, victim: int | None = None, options: str = "") -> int:
        """PERSISTENT RESERVE OUT under its own key; the exit code of ``sg_persist``."""
        words = [f"--{action}", f"--param-rk={self.key:#x}", options]
        words += [f"--prout-type={kind}"] if kind else []
        words += [f"--param-sark={victim:#x}"] if victim is not None else []
        return self.run(f"sg_persist --out {' '.join(words)} $disk >&2")[0]

    def register(self, options: str = "") -> None:
        """Whatever it was registered with before."""
        code = self.run(f"sg_persist --out --register-ignore --param-sark={self.key:#x} {options} $disk >&2")[0]
        assert code == _GOOD

    @property
    def keys(self) -> list[int]:
        """All that are registered, as it sees them."""
        return sorted(int(key, 16) for key in re.findall(r"^\s+(0x\w+)$", self._ask("--read-keys"), re.MULTILINE))

    @property
    def holder(self) -> tuple[int, str] | None:
        """Key and type of the reservation, as it sees it."""
        found = re.search(r"Key=(0x\w+)\s+scope: LU_SCOPE,\s+type: (.*)", self._ask("--read-reservation"))
        return (int(found[1], 16), found[2].strip()) if found else None

    @property
    def access(self) -> Access:
        """What it may do now."""
        code, said = self.run(
            "dd if=$disk of=/dev/null bs=4k count=1 iflag=direct status=none && echo read\n"
            "dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct status=none && echo write; true"
        )
        assert code == 0
        return Access("read" in said, "write" in said)

    def attention(self) -> str:
        """The unit attention that waits for it, "" if there is none; told once."""
        code, said = self.run("sg_turs -v $disk 2>&1")
        assert code in (_GOOD, _ATTENTION), said
        found = re.search(r"Additional sense: (.*)", said)
        return found[1].strip().lower() if found else ""

    def run(self, script: str) -> tuple[int, str]:
        """Exit code and output of a script with its ``$disk``."""
        result = self.session.lab.run(f"disk={self.session.path}\n{script}", check=False)
        return result.exit, result.out

    def _ask(self, what: str) -> str:
        code, said = self.run(f"sg_persist --in {what} $disk")
        assert code == _GOOD, said
        return said


class Pair(NamedTuple):
    """Both."""

    alpha: Initiator
    beta: Initiator


@pytest.fixture(scope="module", autouse=True)
def _guest(lab: Machine) -> None:
    prepare_guest(lab)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetProcess]:
    """A LUN in a file, whose reservations are kept beside it, and a slow one; a portal for either transport."""
    target = TargetProcess(tmp_path_factory.mktemp("reservations"), _TABLES, _SCHEMES)
    with target.serving():
        yield target
        assert "Traceback" not in target.log


@contextmanager
def _pair(
    lab: Machine, target: TargetProcess, name: str, transports: tuple[str, str], names: tuple[str, str]
) -> Iterator[Pair]:
    alpha, beta = (
        KernelSession.of_initiator(lab, name, target.portal_of(_TRANSPORTS.index(transport)), who, transport)
        for who, transport in zip(names, transports, strict=True)
    )
    with alpha.logged_in(), beta.logged_in():
        yield Pair(Initiator(alpha, _ALPHA), Initiator(beta, _BETA))


class Reservations:
    """The tests; a row is a subclass with ``row`` and ``transport``."""

    row: ClassVar[Row]
    transport: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def logged_in(cls, lab: Machine, target: TargetProcess) -> Iterator[Pair]:
        """Both initiators."""
        with _pair(lab, target, _NAME, (cls.transport, cls.transport), ("alpha", "beta")) as pair:
            yield pair

    @pytest.fixture
    def pair(self, logged_in: Pair) -> Pair:
        """Both, and nothing registered; ``alpha`` is told of nothing, as it did that itself."""
        logged_in.alpha.register()
        assert logged_in.alpha.out("clear") == _GOOD
        for initiator in logged_in:
            initiator.attention()
        return logged_in

    @feature(Feature.PR_REGISTER)
    def test_register(self, pair: Pair) -> None:
        alpha, beta = pair
        assert beta.keys == []
        assert alpha.run(f"sg_persist --out --register --param-sark={_ALPHA:#x} $disk >&2")[0] == _GOOD
        assert beta.keys == [_ALPHA]
        assert beta.out("reserve", _EXCLUSIVE) == _CONFLICT  # not registered
        beta.register()
        status = alpha.run("sg_persist --in --read-full-status $disk")[1]
        ports = re.findall(r"Key=(0x\w+).*?port id: (\S+),i,", status, re.DOTALL)
        assert ports == [(hex(_ALPHA), "iqn.2026-11.lab:alpha"), (hex(_BETA), "iqn.2026-11.lab:beta")]
        assert alpha.out("register", options="--param-rk=0x999 --param-sark=1") == _CONFLICT  # not its key
        assert alpha.out("register", victim=0) == _GOOD
        assert beta.keys == [_BETA]

    def _check_type(self, pair: Pair, kind: int) -> None:
        alpha, beta = pair
        alpha.register()
        assert alpha.out("reserve", kind) == _GOOD
        stranger = beta.access
        beta.register()
        assert Rights(stranger, beta.access) == _RIGHTS[kind]
        assert alpha.access == _ALL
        everybody_holds = kind in (_WRITE_EXCLUSIVE_ALL, _EXCLUSIVE_ALL)
        assert beta.out("reserve", kind) == (_GOOD if everybody_holds else _CONFLICT)
        assert beta.out("reserve", kind % 2 + 1) in (_CONFLICT, _ILLEGAL)  # another type
        assert alpha.out("release", kind) == _GOOD
        assert ("released" in beta.attention()) == (kind > _EXCLUSIVE)
        assert beta.holder is None
        assert beta.access == _ALL

    @feature(Feature.PR_PREEMPT)
    def test_preempt(self, pair: Pair) -> None:
        alpha, beta = pair
        alpha.register()
        beta.register()
        assert alpha.out("reserve", _WRITE_EXCLUSIVE) == _GOOD
        assert beta.out("preempt", _EXCLUSIVE, victim=_ALPHA) == _GOOD
        assert beta.holder == (_BETA, "Exclusive Access")
        assert beta.keys == [_BETA]
        assert "registrations preempted" in alpha.attention()
        assert alpha.access == _NONE
        assert alpha.out("release", _EXCLUSIVE) == _CONFLICT
        assert beta.access == _ALL

    @feature(Feature.PR_ABORT)
    def test_preempt_and_abort(self, lab: Machine, target: TargetProcess, notes: Notes) -> None:
        with _pair(lab, target, _SLOW_NAME, (self.transport, self.transport), ("gamma", "delta")) as (gamma, delta):
            gamma.register()
            delta.register()
            assert gamma.out("reserve", _EXCLUSIVE) == _GOOD
            gamma.run("echo 3 >/sys/block/${disk##*/}/device/timeout")
            read = f"dd if={gamma.session.path} of=/dev/null bs=4k count={2 * _PATIENT_READS} iflag=direct"
            load = lab.start(read, seconds=100)
            _await_slow_read(target)
            start = time.monotonic()
            assert delta.out("preempt-abort", _EXCLUSIVE, victim=gamma.key) == _GOOD
            took = time.monotonic() - start
            assert _running(target) == 0
            assert load.wait().exit == 1  # the kernel sent it again, and met a conflict
            delta.attention()
            assert delta.keys == [delta.key]
        assert took < _DELAY / 3
        notes.add(f"a read that takes {_DELAY} s ends at once, and fails when the kernel sends it again")

    @feature(Feature.PR_CLEAR)
    def test_clear(self, pair: Pair) -> None:
        alpha, beta = pair
        alpha.register()
        beta.register()
        assert alpha.out("reserve", _EXCLUSIVE) == _GOOD
        assert beta.out("release", _EXCLUSIVE) == _GOOD  # of who does not hold it, it does nothing
        assert beta.holder == (_ALPHA, "Exclusive Access")
        assert alpha.out("release", _WRITE_EXCLUSIVE) == _ILLEGAL  # another type than it has
        assert beta.out("clear") == _GOOD
        assert beta.keys == []
        assert "reservations preempted" in alpha.attention()
        assert beta.access == alpha.access == _ALL

    @feature(Feature.PR_FENCE)
    def test_fencing(self, pair: Pair) -> None:
        alpha, beta = pair
        for node in pair:  # a cluster starts: each node registers, one reserves for registrants
            node.register()
        assert alpha.out("reserve", _WRITE_EXCLUSIVE_REGISTRANTS) == _GOOD
        assert beta.access == alpha.access == _ALL
        assert beta.out("preempt-abort", _WRITE_EXCLUSIVE_REGISTRANTS, victim=_ALPHA) == _GOOD  # alpha is fenced
        assert beta.keys == [_BETA]
        assert beta.holder == (_BETA, "Write Exclusive, registrants only")
        alpha.attention()
        assert alpha.access == _READ
        alpha.register()  # and comes back
        assert alpha.access == _ALL

    @feature(Feature.PR_APTPL)
    def test_reservations_outlive_a_crash(self, pair: Pair, target: TargetProcess) -> None:
        alpha, beta = pair
        for initiator in pair:
            initiator.register("--param-aptpl")
        assert alpha.out("reserve", _WRITE_EXCLUSIVE) == _GOOD
        _crash(pair, target)
        assert beta.keys == sorted((_ALPHA, _BETA))
        assert beta.holder == (_ALPHA, "Write Exclusive")
        assert (alpha.access, beta.access) == (_ALL, _READ)
        for initiator in pair:
            initiator.register()  # without it
        _crash(pair, target)
        assert beta.keys == []
        assert beta.access == _ALL


def _running(target: TargetProcess) -> int:
    """Commands that the slow LUN works on."""
    return sum(each["running"] for each in target.command("sessions") if each["target"] == _SLOW_NAME)


def _await_slow_read(target: TargetProcess) -> None:
    """Until a command runs and nothing else has come for a while.  Raises AssertionError."""
    before, end = -1, time.monotonic() + _DELAY / 2
    while time.monotonic() < end:
        count = sum(each["commands"] for each in target.command("luns") if each["target"] == _SLOW_NAME)
        if count == before and _running(target):
            return
        before = count
        time.sleep(0.3)
    raise AssertionError("the slow read did not begin")


def _crash(pair: Pair, target: TargetProcess) -> None:
    """Kill the target and start it again; both sessions are back after that, with nothing to be told."""
    target.kill()
    target.start()
    for initiator in pair:
        initiator.run("dd if=$disk of=/dev/null bs=4k count=1 iflag=direct status=none")  # waits until it is back
        while initiator.attention():
            pass


class TestOverTcp(Reservations):
    row = Row("target", "two kernel initiators, sg_persist", Fabric.TCP)
    transport = "tcp"

    @feature(Feature.PR_TYPES)
    @pytest.mark.parametrize("kind", _RIGHTS)
    def test_types(self, pair: Pair, kind: int) -> None:
        self._check_type(pair, kind)

    @feature(Feature.PR_BOTH)
    def test_between_transports(self, lab: Machine, target: TargetProcess, pair: Pair) -> None:
        del pair  # nothing is registered
        with _pair(lab, target, _NAME, ("tcp", "iser"), ("gamma", "delta")) as (over_tcp, over_iser):
            over_tcp.register()
            assert over_tcp.out("reserve", _EXCLUSIVE) == _GOOD
            assert over_iser.access == _NONE
            over_iser.register()
            assert over_iser.out("preempt", _EXCLUSIVE, victim=over_tcp.key) == _GOOD
            over_tcp.attention()
            assert (over_tcp.access, over_iser.access) == (_NONE, _ALL)
            assert over_iser.out("clear") == _GOOD


class TestOverIser(Reservations):
    row = Row("target", "two kernel initiators, sg_persist", Fabric.IWARP)
    transport = "iser"

    @feature(Feature.PR_TYPES)
    @pytest.mark.parametrize("kind", [_EXCLUSIVE, _WRITE_EXCLUSIVE_REGISTRANTS])  # the others are the same below
    def test_types(self, pair: Pair, kind: int, notes: Notes) -> None:
        self._check_type(pair, kind)
        notes.add("two of them")
