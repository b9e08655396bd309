"""Our target over verbs, in the guest: with our initiator on this machine, and with the kernel's in the guest."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import ClassVar, cast

import pytest

from iser.sg import SgClass
from tests.interop.initiator_row import InitiatorRow
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.guest import GUEST_IWARP, GUEST_ROCE, GuestTarget
from tests.interop.peers.open_iscsi import Disk, OpenIscsi
from tests.interop.peers.ours import OurTarget
from tests.interop.recorder import NotOffered, feature
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
        target.start()
        yield target
        target.stop()

    @pytest.fixture
    def peer(self, guest: GuestTarget) -> GuestTarget:
        """Serving."""
        return guest


class _KernelRow:
    """The kernel's initiator with our target, both in the guest."""

    row: ClassVar[Row]

    @pytest.fixture(scope="class")
    @classmethod
    def kernel(cls, lab: Machine) -> OpenIscsi:
        """The kernel's initiator."""
        return OpenIscsi(lab)

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls, lab: Machine) -> Iterator[OurTarget]:
        """Serving, at an address that the guest reaches itself at."""
        target = GuestTarget(lab, _ADDRESSES[cls.row.fabric], 3274 + list(Fabric).index(cls.row.fabric))
        target.portal = target.inside
        target.start()
        yield cast("OurTarget", target)  # of which the kernel's side asks name and portal
        target.stop()

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls, kernel: OpenIscsi, target: OurTarget) -> Iterator[Disk]:
        """Logged in to."""
        with kernel.disk(target) as disk:
            yield disk

    @feature(Feature.DISCOVERY)
    def test_discovery(self, kernel: OpenIscsi, target: OurTarget, lab: Machine) -> None:
        assert target.name in kernel.discover(target)
        # Here it tells the very portal that is logged in to later, and two records of it would make two sessions.
        lab.run(f"iscsiadm -m node -T {target.name} -o delete")

    @feature(Feature.LOGIN)
    def test_login(self, kernel: OpenIscsi, disk: Disk) -> None:
        assert "Transport: iser" in kernel.sessions()

    @feature(Feature.CAPACITY)
    def test_capacity(self, disk: Disk) -> None:
        assert int(disk.lab.run(f"blockdev --getsize64 {disk.path}").out) == GuestTarget.size

    @pytest.mark.parametrize("kind", [pytest.param(k, marks=feature(Feature(f"{k.value} lists"))) for k in SgClass])
    def test_lists(self, disk: Disk, kind: SgClass) -> None:
        command = f"{disk.lab.build.python} -m tests.interop.guest_lists {disk.path} {kind.value} 16384 131072"
        result = disk.lab.run(f"cd {PROJECT} && {command}", check=False)
        if result.exit == errno.EOPNOTSUPP:
            raise NotOffered("the kernel's direct I/O answers EINVAL for such memory")
        result.checked()

    @feature(Feature.SIZES)
    @pytest.mark.parametrize(("block", "count"), [("512", 32), ("64k", 16), ("1M", 4), ("8M", 2)])
    def test_sizes(self, disk: Disk, block: str, count: int) -> None:
        disk.lab.run(
            f"set -e; cd /run; dd if=/dev/urandom of=source bs={block} count={count} status=none\n"
            f"dd if=source of={disk.path} bs={block} seek=1 oflag=direct status=none\n"
            f"dd if={disk.path} of=copy bs={block} skip=1 count={count} iflag=direct status=none\n"
            "cmp source copy; rm source copy",
            seconds=120,
        )

    @feature(Feature.FIO)
    def test_fio_verify(self, disk: Disk) -> None:
        disk.lab.run(
            f"cd /run && fio --name=lab --filename={disk.path} --direct=1 --ioengine=libaio --verify=crc32c"
            " --do_verify=1 --verify_fatal=1 --bsrange=512-256k --blockalign=512 --iodepth=32 --size=16M"
            " --rw=randwrite",
            seconds=200,
        )

    @feature(Feature.EXT4)
    def test_ext4(self, disk: Disk) -> None:
        disk.lab.run(
            f"set -e; mkfs.ext4 -q -F {disk.path}; mount {disk.path} /mnt/lab; cp -r /usr/share/perl5/Debian /mnt/lab\n"
            f"umount /mnt/lab; fsck.ext4 -fn {disk.path} >&2; echo 3 >/proc/sys/vm/drop_caches\n"
            f"mount {disk.path} /mnt/lab; diff -r /usr/share/perl5/Debian /mnt/lab/Debian; umount /mnt/lab",
            seconds=200,
        )

    @feature(Feature.REMOTE_INVALIDATION)
    def test_remote_invalidation(self, target: OurTarget) -> None:
        assert "remote invalidation on" in target.log


class TestIbIserOverRoce(_KernelRow):
    row = Row("target, verbs", "Linux ib_iser", Fabric.ROCE)


class TestIbIserOverIwarp(_KernelRow):
    row = Row("target, verbs", "Linux ib_iser", Fabric.IWARP)
