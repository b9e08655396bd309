"""Our target over the embedded RNIC, on this machine, with the kernel's initiator over siw, in the guest."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest

from iser.sg import SgClass
from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.open_iscsi import Disk, OpenIscsi
from tests.interop.peers.ours import OurTarget
from tests.interop.recorder import Notes, NotOffered, feature
from tests.lab import Machine
from tests.lab.build import PROJECT

_SIZE: Final = 256 << 20
_TREE: Final = "/usr/share/perl5"
_SUMS: Final = "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
_NEVER_SENT: Final = "not run: the kernel's source has no place that sends it"
_PING_EACH_SECOND: Final = {
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
}
_ABORT_DELAY: Final = 40  # seconds that a read of the slow target takes


@pytest.fixture(scope="module")
def kernel(lab: Machine) -> OpenIscsi:
    """The kernel's initiator."""
    return OpenIscsi(lab)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    """A disk in memory."""
    target = OurTarget(tmp_path_factory.mktemp("memory"), "iqn.2026-11.lab:memory", _memory(_SIZE))
    with target.serving():
        yield target


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    """Another one, for tests that log in themselves."""
    target = OurTarget(tmp_path_factory.mktemp("spare"), "iqn.2026-11.lab:spare", _memory(_SIZE))
    with target.serving():
        yield target


@pytest.fixture(scope="module")
def disk(kernel: OpenIscsi, target: OurTarget) -> Iterator[Disk]:
    """The disk in memory, logged in to for all the tests that do not care about logins."""
    with kernel.disk(target) as disk:
        yield disk


def _memory(size: int) -> str:
    return f'backend = "memory"\nsize = {size}'


def _write_and_compare(disk: Disk, block: str, count: int, seek: int = 0) -> None:
    """``count`` blocks of random data out and back, past the cache."""
    disk.lab.run(
        f"set -e; cd /run; dd if=/dev/urandom of=source bs={block} count={count} status=none\n"
        f"dd if=source of={disk.path} bs={block} seek={seek} oflag=direct status=none\n"
        f"dd if={disk.path} of=copy bs={block} skip={seek} count={count} iflag=direct status=none\n"
        "cmp source copy; rm source copy",
        seconds=120,
    )


class TestIbIser:
    """Features, the destructive ones last."""

    row: ClassVar = Row("target, softiwarp", "Linux ib_iser", Fabric.IWARP)

    @feature(Feature.DISCOVERY)
    def test_discovery(self, kernel: OpenIscsi, target: OurTarget) -> None:
        assert target.name in kernel.discover(target)

    @feature(Feature.LOGIN)
    def test_login(self, kernel: OpenIscsi, spare: OurTarget, notes: Notes) -> None:
        with kernel.disk(spare) as disk:
            keys = ("ImmediateData", "InitialR2T", "FirstBurstLength", "MaxBurstLength")
            notes.add(", ".join(f"{key}={disk.settings.get(key)}" for key in keys))
            assert "Transport: iser" in kernel.sessions()

    @feature(Feature.LOGOUT)
    def test_logout(self, kernel: OpenIscsi, spare: OurTarget) -> None:
        for _ in range(3):
            with kernel.disk(spare):
                assert spare.name in kernel.sessions()
            assert spare.name not in kernel.sessions()

    @feature(Feature.CAPACITY)
    def test_capacity(self, disk: Disk) -> None:
        assert int(disk.lab.run(f"blockdev --getsize64 {disk.path}").out) == _SIZE

    @pytest.mark.parametrize("kind", [pytest.param(k, marks=feature(Feature(f"{k.value} lists"))) for k in SgClass])
    def test_lists(self, disk: Disk, kind: SgClass) -> None:
        command = f"{disk.lab.build.python} -m tests.interop.guest_lists {disk.path} {kind.value} 16384 131072"
        result = disk.lab.run(f"cd {PROJECT} && {command}", check=False)
        if result.exit == errno.EOPNOTSUPP:
            raise NotOffered("the kernel's direct I/O answers EINVAL: it takes elements of whole blocks")
        result.checked()

    @feature(Feature.IMMEDIATE_DATA)
    def test_immediate_data(self, disk: Disk) -> None:
        assert disk.settings["ImmediateData"] == "Yes"
        _write_and_compare(disk, "4k", 64)

    @feature(Feature.IMMEDIATE_DATA)
    def test_no_immediate_data(self, kernel: OpenIscsi, tmp_path: Path) -> None:
        target = OurTarget(tmp_path, "iqn.2026-11.lab:rdma", _memory(16 << 20), "immediate_data = false")
        with target.serving(), kernel.disk(target) as disk:
            assert disk.settings["ImmediateData"] == "No"
            _write_and_compare(disk, "4k", 64)

    @feature(Feature.UNSOLICITED_DATA)
    def test_unsolicited_data(self, kernel: OpenIscsi, tmp_path: Path) -> None:
        target = OurTarget(tmp_path, "iqn.2026-11.lab:unsolicited", _memory(64 << 20), "initial_r2t = false")
        with target.serving(), kernel.disk(target) as disk:
            assert disk.settings["InitialR2T"] == "No"
            for block in ("4k", "12k", "64k", "512k"):
                _write_and_compare(disk, block, 16)

    @feature(Feature.SIZES)
    def test_sizes(self, disk: Disk, notes: Notes) -> None:
        for block, count in (("512", 32), ("4k", 32), ("64k", 16), ("512k", 8), ("1M", 4), ("8M", 2)):
            _write_and_compare(disk, block, count, seek=1)
        limit = disk.lab.run(f"cat /sys/block/{disk.name}/queue/max_sectors_kb").out.strip()
        notes.add(f"one command moves at most {limit} KiB, the kernel's limit")

    @feature(Feature.QUEUE_DEPTH)
    def test_queue_depth_32(self, disk: Disk) -> None:
        _fio(disk, "--bs=4k --iodepth=32 --size=8M --rw=randwrite")

    @feature(Feature.FIO)
    def test_fio_verify(self, disk: Disk) -> None:
        _fio(disk, "--bsrange=512-256k --blockalign=512 --iodepth=16 --size=32M --offset=64M --rw=randwrite")

    @feature(Feature.REMOTE_INVALIDATION)
    def test_remote_invalidation(self, kernel: OpenIscsi, spare: OurTarget, lab: Machine) -> None:
        parameter = "/sys/module/ib_iser/parameters/debug_level"
        lab.run(f"echo 3 >{parameter}; dmesg -C")
        try:
            with kernel.disk(spare) as disk:
                _write_and_compare(disk, "64k", 16)
        finally:
            said = lab.run(f"echo 0 >{parameter}; dmesg").out
        assert "negotiated remote invalidation" in said, [line for line in said.splitlines() if "invalid" in line]

    @feature(Feature.NOP)
    def test_pings_keep_an_idle_session(self, kernel: OpenIscsi, spare: OurTarget, lab: Machine, notes: Notes) -> None:
        lab.run("dmesg -C")
        with kernel.disk(spare, _PING_EACH_SECOND) as disk:
            time.sleep(6)
            assert "ping timeout" not in lab.run("dmesg").out
            spare.signal(signal.SIGSTOP)
            try:
                _await(lambda: "ping timeout" in lab.run("dmesg").out, "the kernel does not ping", 15)
            finally:
                spare.signal(signal.SIGCONT)
            _write_and_compare(disk, "4k", 4)
        notes.add("each second; the kernel notices within 5 s when our target stands still, and reconnects")

    # Task management

    @feature(Feature.ABORT_TASK)
    def test_a_command_that_takes_too_long_is_aborted(self, kernel: OpenIscsi, tmp_path: Path) -> None:
        fault = f'faults = [{{ on = "read", nth = 100, action = "delay", seconds = {_ABORT_DELAY} }}]'
        target = OurTarget(tmp_path, "iqn.2026-11.lab:slow", f"{_memory(16 << 20)}\n{fault}")
        with target.serving(), kernel.disk(target) as disk:
            disk.lab.run(f"dmesg -C; echo 2 >/sys/block/{disk.name}/device/timeout")
            start = time.monotonic()
            disk.lab.run(f"dd if={disk.path} of=/dev/null bs=4k count=200 iflag=direct", seconds=90)
            assert time.monotonic() - start < _ABORT_DELAY
            stats = disk.lab.run("iscsiadm -m session -s").out
            assert "tmfcmd_pdus: 1" in stats, stats

    @feature(Feature.LUN_RESET)
    def test_lun_reset(self, disk: Disk) -> None:
        _reset(disk, "device")

    @feature(Feature.WARM_RESET)
    def test_target_reset(self, disk: Disk) -> None:
        _reset(disk, "target")

    @feature(Feature.ABORT_TASK_SET)
    def test_abort_task_set(self) -> None:
        raise NotOffered(_NEVER_SENT)

    @feature(Feature.CLEAR_TASK_SET)
    def test_clear_task_set(self) -> None:
        raise NotOffered(_NEVER_SENT)

    @feature(Feature.COLD_RESET)
    def test_target_cold_reset(self) -> None:
        raise NotOffered(_NEVER_SENT)

    # File systems

    @feature(Feature.EXT4)
    def test_ext4(self, disk: Disk) -> None:
        _file_system(disk, "mkfs.ext4 -q -F", "fsck.ext4 -fn")

    @feature(Feature.XFS)
    def test_xfs(self, disk: Disk) -> None:
        # xfsprogs refuse less than 300 MB, but for this; the kernel does not care.
        _file_system(disk, "mkfs.xfs -q -f --unsupported", "xfs_repair -n")

    # The end of a connection

    @feature(Feature.PEER_KILLED)
    def test_the_connection_is_cut_mid_io(
        self, kernel: OpenIscsi, spare: OurTarget, lab: Machine, notes: Notes
    ) -> None:
        kernel.login(spare)
        disk = kernel.find_disk(spare)
        load = lab.start(f"dd if=/dev/zero of={disk.path} bs=256k count=100 oflag=direct")
        time.sleep(1)
        assert not load.future.done()
        before = spare.log.count("connection ended")
        lab.run(f"ss -K dst 10.0.2.2 dport = {spare.port}")
        load.wait().checked()  # the kernel reconnects, and goes on where it was
        assert spare.log.count("connection ended") == before + 1
        _write_and_compare(disk, "64k", 16)
        kernel.logout(spare)
        notes.add("its TCP connection reset in the guest, in the middle of a dd")

    @feature(Feature.RECONNECT)
    def test_our_target_is_killed_mid_io_and_restarted(
        self, kernel: OpenIscsi, lab: Machine, tmp_path: Path, notes: Notes
    ) -> None:
        lun = f'backend = "file"\npath = "disk.img"\nsize = {64 << 20}'
        target = OurTarget(tmp_path, "iqn.2026-11.lab:file", lun)
        with target.serving(), kernel.disk(target) as disk:
            lab.run("dd if=/dev/urandom of=/run/big bs=1M count=48 status=none")
            load = lab.start(f"dd if=/run/big of={disk.path} bs=256k oflag=direct", seconds=150)
            time.sleep(1.5)
            assert not load.future.done()
            target.kill()
            time.sleep(1)
            target.start()
            load.wait().checked()
            lab.run(f"cmp -n {48 << 20} /run/big {disk.path}; rm /run/big")
        notes.add(
            "our target killed in the middle of a dd to a file LUN, started again: the dd ends well, all bytes there"
        )


def _await(condition: Callable[[], bool], otherwise: str, seconds: float) -> None:
    """Ask twice a second until it is so.  Raises AssertionError."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.5)


def _fio(disk: Disk, options: str) -> None:
    """Write with ``options``, read all back, compare."""
    disk.lab.run(
        f"cd /run && fio --name=lab --filename={disk.path} --direct=1 --ioengine=libaio --verify=crc32c --do_verify=1"
        f" --verify_fatal=1 --group_reporting --randrepeat=1 {options}",
        seconds=200,
    )


def _reset(disk: Disk, kind: str) -> None:
    load = disk.lab.start(f"dd if={disk.path} of=/dev/null bs=64k count=400 iflag=direct")
    disk.lab.run(f"cd {PROJECT} && {disk.lab.build.python} -m tests.interop.guest_reset {disk.path} {kind}")
    load.wait().checked()
    _write_and_compare(disk, "64k", 16)


def _file_system(disk: Disk, make: str, check: str) -> None:
    """Make one, copy a tree, check it, and compare the tree after the caches were dropped."""
    sums = disk.lab.run(
        f"""set -e -o pipefail
        {make} {disk.path} >&2; mount {disk.path} /mnt/lab; cp -r {_TREE} /mnt/lab/tree; umount /mnt/lab
        {check} {disk.path} >&2; echo 3 >/proc/sys/vm/drop_caches; mount {disk.path} /mnt/lab
        cd {_TREE}; {_SUMS}; cd /mnt/lab/tree; {_SUMS}; cd /; umount /mnt/lab""",
        seconds=200,
    ).out.splitlines()
    assert len(sums) == 2
    assert sums[0] == sums[1]
