"""Our target over verbs, in the guest: with our initiator on this machine, and with the kernel's in the guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.initiator_row import InitiatorRow
from tests.interop.kernel_row import KernelRow, kernel_tables
from tests.interop.matrix import Fabric, Row
from tests.interop.peers.guest import GUEST_IWARP, GUEST_ROCE, GuestProcess, GuestTarget
from tests.interop.recorder import peer_fault
from tests.lab import Machine
from tests.lab.build import PROJECT

_ADDRESSES = {Fabric.IWARP: GUEST_IWARP, Fabric.ROCE: GUEST_ROCE}


class TestSoftiwarp(InitiatorRow):
    """Between our two providers, the other way round."""

    row = Row("initiator, softiwarp", "our target, verbs", Fabric.IWARP)

    @pytest.fixture(scope="class")
    @classmethod
    def guest(cls, lab: Machine) -> Iterator[GuestTarget]:
        """Serving on siw."""
        target = GuestTarget(lab, GUEST_IWARP, 3272)
        with target.process.serving():
            yield target

    @pytest.fixture
    def peer(self, guest: GuestTarget) -> GuestTarget:
        """Serving."""
        return guest


class TestSiw:
    """A class, so that it is a piece of work by itself."""

    @peer_fault("siw 6.1", "a read into several buffers succeeds with only the first one filled")
    def test_siw_fills_only_the_first_buffer_of_a_read(self, lab: Machine) -> None:
        assert _guest_siw(lab, "read") == "[True, False]"

    @peer_fault("siw 6.1", "inline data in a Send with Invalidate ends the connection")
    def test_siw_takes_no_inline_data_with_an_invalidation(self, lab: Machine) -> None:
        assert _guest_siw(lab, "send") == "[True, False]"


def _guest_siw(lab: Machine, work: str) -> str:
    command = f"{lab.build.python} -m tests.interop.guest_siw {GUEST_IWARP} {work}"
    return lab.run(f"cd {PROJECT} && {command}", check=False).out.strip()


class _KernelRow(KernelRow):
    """The kernel's initiator with our target, both in the guest."""

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, lab: Machine) -> Iterator[GuestProcess]:
        """Serving, at an address that the guest reaches itself at."""
        number = list(Fabric).index(cls.row.fabric)
        tables = kernel_tables(cls.short, "/run/" + cls.short)
        lab.run(f"mkdir -p /run/{cls.short}")
        with GuestProcess(lab, _ADDRESSES[cls.row.fabric], 3274 + number, tables).serving() as process:
            yield process


class TestIbIserOverRoce(_KernelRow):
    row = Row("target, verbs", "Linux ib_iser", Fabric.ROCE)
    short = "roce"


class TestIbIserOverIwarp(_KernelRow):
    row = Row("target, verbs", "Linux ib_iser", Fabric.IWARP)
    short = "iwarp"
