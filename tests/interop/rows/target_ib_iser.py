"""Our target over the embedded RNIC, on this machine, with the kernel's initiator over siw, in the guest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest

from tests.interop.kernel_row import KernelRow, Node, kernel_tables, write_and_compare
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.guest import GUEST_IWARP, SECRETS, GuestProcess
from tests.interop.peers.open_iscsi import OpenIscsi
from tests.interop.peers.ours import WORKER_NAMES, WORKER_TABLES, OurTarget
from tests.interop.peers.process import TargetProcess
from tests.interop.recorder import Notes, feature
from tests.lab import Machine

_WORKER_PORTS: Final = (3310, 3311)


class TestIbIser(KernelRow):
    """And what needs a process of its own, or a TCP connection that can be cut."""

    row: ClassVar = Row("target, softiwarp", "Linux ib_iser", Fabric.IWARP)
    short = "soft"

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetProcess]:
        """On this machine."""
        folder = tmp_path_factory.mktemp("kernel")
        with TargetProcess(folder, kernel_tables(cls.short, str(folder)), environment=SECRETS).serving() as process:
            yield process

    @feature(Feature.LOGIN)
    def test_a_login_is_redirected_to_the_worker_of_its_target(
        self, kernel: OpenIscsi, lab: Machine, notes: Notes
    ) -> None:
        worker = _WORKER_PORTS[0]
        keys = f'workers = 2\nworker_ports = "{worker}-{_WORKER_PORTS[-1]}"\n'
        with GuestProcess(lab, GUEST_IWARP, worker - 1, WORKER_TABLES, keys, "softiwarp").serving():
            for name, wrong, right in zip(WORKER_NAMES, _WORKER_PORTS[::-1], _WORKER_PORTS, strict=True):
                with kernel.disk(Node(name, f"{GUEST_IWARP}:{wrong}")) as disk:
                    write_and_compare(disk, "64k", 8)
                    assert f"Current Portal: {GUEST_IWARP}:{right}," in kernel.sessions()
        notes.add("redirected (0101) from one worker to the other, both in the guest")

    @feature(Feature.IMMEDIATE_DATA)
    def test_no_immediate_data(self, kernel: OpenIscsi, tmp_path: Path) -> None:
        target = OurTarget(
            tmp_path, "iqn.2026-11.lab:rdma", 'backend = "memory"\nsize = "16M"', "immediate_data = false"
        )
        with target.serving(), kernel.disk(target) as disk:
            assert disk.settings["ImmediateData"] == "No"
            write_and_compare(disk, "4k", 64)

    @feature(Feature.UNSOLICITED_DATA)
    def test_unsolicited_data(self, kernel: OpenIscsi, tmp_path: Path) -> None:
        target = OurTarget(
            tmp_path, "iqn.2026-11.lab:unsolicited", 'backend = "memory"\nsize = "64M"', "initial_r2t = false"
        )
        with target.serving(), kernel.disk(target) as disk:
            assert disk.settings["InitialR2T"] == "No"
            for block in ("4k", "12k", "64k", "512k"):
                write_and_compare(disk, block, 16)

    @feature(Feature.RECONNECT)
    def test_the_connection_is_cut_mid_io(
        self, kernel: OpenIscsi, spare: Node, process: TargetProcess, lab: Machine, notes: Notes
    ) -> None:
        with kernel.disk(spare) as disk:
            load = lab.start(f"dd if=/dev/zero of={disk.path} bs=256k count=100 oflag=direct")
            time.sleep(1)
            assert not load.future.done()
            before = process.log.count("connection ended")
            lab.run(f"ss -K dst 10.0.2.2 dport = {spare.portal.rpartition(':')[2]}")
            load.wait().checked()  # the kernel reconnects, and goes on where it was
            assert process.log.count("connection ended") > before
            write_and_compare(disk, "64k", 16)
        notes.add("its TCP connection reset in the guest, in the middle of a dd")
