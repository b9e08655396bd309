"""Our target with libiscsi's iSER, in the guest: over the embedded RNIC, on this machine, and over verbs, in the guest.

libiscsi comes with its own tools (iscsi-inq, iscsi-perf, iscsi-test-cu, ...) and as qemu's block driver (qemu-io).
"""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import ClassVar, Final

import pytest

from tests.interop.kernel_row import Serving
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.guest import GUEST_IWARP, GUEST_ROCE, GuestProcess
from tests.interop.peers.process import TargetProcess
from tests.interop.recorder import Notes, NotOffered, feature
from tests.lab import Machine

_PEER: Final = "libiscsi 1.19 iser"
_NAME: Final = "iqn.2026-11.lab:libiscsi"
_SIZE: Final = 64 << 20
_PORTS: Final = itertools.count(3280)
_LOGGED_OUT: Final = "logged out"
_KIB: Final = (0.5, 4, 64, 256)
_HANG_SECONDS: Final = 10.0  # for a command that libiscsi is known to hang in
_TABLES: Final = f"""
[limits]
immediate_data = {{immediate}}
[[target]]
name = "{_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = {_SIZE}
"""


def _url(target: Serving) -> str:
    return f"iser://{target.portal_of(0)}/{_NAME}/0"


def _qemu_io(lab: Machine, target: Serving, *commands: str, seconds: float = 60.0) -> None:
    """Raises CommandFailed, or AssertionError where a pattern is not what was written."""
    arguments = " ".join(f"-c '{command}'" for command in commands)
    result = lab.run(f"qemu-io -f raw -t none {arguments} {_url(target)}", seconds=seconds)
    assert "failed" not in result.out, next(line for line in result.out.splitlines() if "failed" in line)


class _LibiscsiRow:
    """Features; a row says where our target is."""

    row: ClassVar[Row]

    @staticmethod
    @abstractmethod
    def make(lab: Machine, folders: pytest.TempPathFactory, tables: str) -> AbstractContextManager[Serving]:
        """Our target, serving."""

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
        """A disk in memory; without immediate data, see :mod:`tests.interop.known`."""
        with cls.make(lab, tmp_path_factory, _TABLES.format(immediate="false")) as target:
            yield target

    @pytest.fixture
    def immediate(self, lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
        """One with immediate data."""
        with self.make(lab, tmp_path_factory, _TABLES.format(immediate="true")) as target:
            yield target

    @feature(Feature.DISCOVERY)
    def test_discovery(self, lab: Machine, target: Serving) -> None:
        result = lab.run(f"iscsi-ls iser://{target.portal_of(0)}", check=False)
        if "must specify" in result.err:
            raise NotOffered("iscsi-ls takes iscsi:// URLs only")
        assert _NAME in result.checked().out

    @feature(Feature.LOGIN)
    def test_login(self, lab: Machine, target: Serving) -> None:
        assert "ISER-PY" in lab.run(f"iscsi-inq {_url(target)}").out

    @feature(Feature.CAPACITY)
    def test_capacity(self, lab: Machine, target: Serving) -> None:
        assert f"Total size:{_SIZE}" in lab.run(f"iscsi-readcapacity16 {_url(target)}").out

    @feature(Feature.SINGLE)
    def test_writes_and_reads_back(self, lab: Machine, target: Serving) -> None:
        _qemu_io(lab, target, "write -P 0x5a 0 64k", "read -P 0x5a 0 64k", "read -P 0 64k 64k")

    @feature(Feature.SIZES)
    def test_sizes(self, lab: Machine, target: Serving, notes: Notes) -> None:
        for number, kib in enumerate(_KIB, 1):
            size = int(kib * 1024)
            _qemu_io(lab, target, f"write -P {number} 1M {size}", f"read -P {number} 1M {size}")
        notes.add("up to 256 KiB: this libiscsi takes less than 512 KiB at once")

    @feature(Feature.QUEUE_DEPTH)
    def test_queue_depth_32(self, lab: Machine, target: Serving) -> None:
        numbers = range(1, 33)
        writes = [f"aio_write -P {number} {number * 64}k 16k" for number in numbers]
        reads = [f"read -P {number} {number * 64}k 16k" for number in numbers]
        _qemu_io(lab, target, *writes, "aio_flush", *reads)
        said = lab.run(f"iscsi-perf -m 32 -b 8 -t 3 {_url(target)}", check=False).out
        assert "in_flight 32" in said

    @feature(Feature.IMMEDIATE_DATA)
    def test_immediate_data(self, lab: Machine, immediate: Serving) -> None:
        _qemu_io(lab, immediate, "write -P 0x5a 0 4k", "read -P 0x5a 0 4k", seconds=_HANG_SECONDS)

    @feature(Feature.UNSOLICITED_DATA)
    def test_unsolicited_data(self) -> None:
        raise NotOffered("not run: its lib/iser.c sends no data in Data-Out PDUs")

    @feature(Feature.REMOTE_INVALIDATION)
    def test_remote_invalidation(self) -> None:
        raise NotOffered("not run: its lib/iser.c says so in its private data")

    @pytest.mark.parametrize(
        "suite",
        [
            pytest.param("iSCSITMF.AbortTaskSimpleAsync", marks=feature(Feature.ABORT_TASK)),
            pytest.param("iSCSITMF.LUNResetSimpleAsync", marks=feature(Feature.LUN_RESET)),
        ],
    )
    def test_task_management(self, lab: Machine, target: Serving, suite: str) -> None:
        said = lab.run(f"iscsi-test-cu --dataloss --test=iSCSI.{suite} {_url(target)}").out
        assert "tests      1      1      1      0        0" in said, said[-300:]

    @feature(Feature.LOGOUT)
    def test_logout(self, lab: Machine, target: Serving) -> None:
        before = target.log.count(_LOGGED_OUT)
        lab.run(f"iscsi-inq {_url(target)}")
        time.sleep(0.5)
        assert target.log.count(_LOGGED_OUT) == before + 1

    @feature(Feature.PEER_KILLED)
    def test_the_initiator_is_killed_mid_io(self, lab: Machine, target: Serving) -> None:
        job = lab.start(f"iscsi-perf -m 32 -b 128 {_url(target)}")
        time.sleep(3)
        assert not job.future.done()
        before = target.log.count("connection ended")
        job.kill()
        job.wait()
        time.sleep(1)
        assert target.log.count("connection ended") == before + 1

    @feature(Feature.RECONNECT)
    def test_a_new_login_works(self, lab: Machine, target: Serving) -> None:
        _qemu_io(lab, target, "write -P 0x77 0 64k", "read -P 0x77 0 64k")


class TestLibiscsi(_LibiscsiRow):
    row: ClassVar = Row("target, softiwarp", _PEER, Fabric.IWARP)

    @staticmethod
    def make(lab: Machine, folders: pytest.TempPathFactory, tables: str) -> AbstractContextManager[TargetProcess]:
        """On this machine."""
        return TargetProcess(folders.mktemp("libiscsi"), tables).serving()


class TestLibiscsiOverRoce(_LibiscsiRow):
    row: ClassVar = Row("target, verbs", _PEER, Fabric.ROCE)

    @staticmethod
    def make(lab: Machine, folders: pytest.TempPathFactory, tables: str) -> AbstractContextManager[GuestProcess]:
        """In the guest."""
        return GuestProcess(lab, GUEST_ROCE, next(_PORTS), tables).serving()


class TestLibiscsiOverIwarp(_LibiscsiRow):
    row: ClassVar = Row("target, verbs", _PEER, Fabric.IWARP)

    @staticmethod
    def make(lab: Machine, folders: pytest.TempPathFactory, tables: str) -> AbstractContextManager[GuestProcess]:
        """In the guest."""
        return GuestProcess(lab, GUEST_IWARP, next(_PORTS), tables).serving()
