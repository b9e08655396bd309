"""The tests of the kernel's initiator with our target; a row is a subclass with ``row`` and the fixture ``process``."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, NamedTuple, Protocol

import pytest

from iser.sg import SgClass
from tests.interop.guest_lists import NO_MEMORY
from tests.interop.matrix import Feature, Row
from tests.interop.peers.base import CHAP, GUARD, MUTUAL
from tests.interop.peers.open_iscsi import Disk, OpenIscsi
from tests.interop.recorder import Notes, NotOffered, feature
from tests.lab import CommandFailed, Machine
from tests.lab.build import PROJECT

__all__ = ["KernelRow", "Node", "Serving", "kernel_tables", "write_and_compare"]

_SIZE: Final = 256 << 20
_FILE_SIZE: Final = 40 << 20
_PREFIX: Final = "iqn.2026-11.lab:"
_TREE: Final = "/usr/share/perl5"
_SUMS: Final = "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
_NEVER_SENT: Final = "not run: the kernel's source has no place that sends it"
_PING_EACH_SECOND: Final = {
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
}
_LISTS_SECONDS: Final = 150.0
_ABORT_DELAY: Final = 40  # seconds that a read of the slow target takes
_ANSWER_SECONDS: Final = 5.0  # to an abort, of the guest's clock; it takes some milliseconds
_CHAP: Final = {
    # A response that overtakes the completion of its request makes ib_iser refuse iscsid the next request ("Login/Text
    # in progress", seen over rxe); iscsid logs in anew after this many seconds, for which it waits 30 otherwise.
    "node.conn[0].timeo.login_timeout": "8",
    "node.session.auth.authmethod": "CHAP",
    "node.session.auth.username": CHAP[0],
    "node.session.auth.password": CHAP[1],
}
_MUTUAL: Final = {"node.session.auth.username_in": MUTUAL[0], "node.session.auth.password_in": MUTUAL[1]}
_TABLES: Final = """
[[target]]
name = "{prefix}{row}-memory"
[[target.lun]]
id = 0
backend = "memory"
size = {size}
[[target]]
name = "{prefix}{row}-spare"
[[target.lun]]
id = 0
backend = "memory"
size = {size}
[[target]]
name = "{prefix}{row}-slow"
[[target.lun]]
id = 0
backend = "memory"
size = "16M"
faults = [{{ on = "read", nth = 100, action = "delay", seconds = {delay} }}]
[[target]]
name = "{prefix}{row}-file"
[[target.lun]]
id = 0
backend = "file"
path = "{folder}/disk.img"
size = {file_size}
[[target]]
name = "{prefix}{row}-guarded"
[[target.lun]]
id = 0
backend = "memory"
size = "16M"
{guard}"""


def kernel_tables(row: str, folder: str) -> str:
    """Of our target's configuration: what a row called ``row`` uses; its file is in ``folder``."""
    return _TABLES.format(
        prefix=_PREFIX, row=row, folder=folder, size=_SIZE, file_size=_FILE_SIZE, delay=_ABORT_DELAY, guard=GUARD,
    )  # fmt: skip


class Node(NamedTuple):
    """One of our targets, as open-iscsi is told of it."""

    name: str
    portal: str


class Serving(Protocol):
    """Our target as a process, somewhere."""

    @property
    def log(self) -> str:
        """What it said."""

    def portal_of(self, number: int) -> str:
        """Where the guest reaches it."""

    def start(self) -> None:
        """Serve again, at the same portal."""

    def kill(self) -> None:
        """SIGKILL."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""


def write_and_compare(disk: Disk, block: str, count: int, seek: int = 0) -> None:
    """``count`` blocks of random data out and back, past the cache."""
    disk.lab.run(
        f"set -e; cd /run; dd if=/dev/urandom of=source bs={block} count={count} status=none\n"
        f"dd if=source of={disk.path} bs={block} seek={seek} oflag=direct status=none\n"
        f"dd if={disk.path} of=copy bs={block} skip={seek} count={count} iflag=direct status=none\n"
        "cmp source copy; rm source copy",
        seconds=120,
    )


class KernelRow:
    """Features, the destructive ones last."""

    row: ClassVar[Row]
    #: The row's part of its targets' names.
    short: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def kernel(cls, lab: Machine) -> OpenIscsi:
        """The kernel's initiator."""
        return OpenIscsi(lab)

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls, kernel: OpenIscsi, process: Serving) -> Iterator[Disk]:
        """The disk in memory, logged in to for all the tests that do not care about logins."""
        with kernel.disk(cls.node(process, "memory")) as disk:
            yield disk

    @classmethod
    def node(cls, process: Serving, kind: str) -> Node:
        """One of the targets of :func:`kernel_tables`."""
        return Node(f"{_PREFIX}{cls.short}-{kind}", process.portal_of(0))

    @pytest.fixture
    def spare(self, process: Serving) -> Node:
        """Another disk in memory, for tests that log in themselves."""
        return self.node(process, "spare")

    @feature(Feature.DISCOVERY)
    def test_discovery(self, kernel: OpenIscsi, process: Serving, lab: Machine) -> None:
        node = self.node(process, "memory")
        assert node.name in kernel.discover(node)
        # It may tell the very portals that are logged in to later, and two records of one would make two sessions.
        lab.run(
            f"for t in $(iscsiadm -m node | awk '/{_PREFIX}/ {{print $2}}'); do iscsiadm -m node -T $t -o delete; done"
        )

    @feature(Feature.LOGIN)
    def test_login(self, kernel: OpenIscsi, spare: Node, notes: Notes) -> None:
        with kernel.disk(spare) as disk:
            keys = ("ImmediateData", "InitialR2T", "FirstBurstLength", "MaxBurstLength")
            notes.add(", ".join(f"{key}={disk.settings.get(key)}" for key in keys))
            assert "Transport: iser" in kernel.sessions()

    @feature(Feature.LOGOUT)
    def test_logout(self, kernel: OpenIscsi, spare: Node) -> None:
        for _ in range(2):
            with kernel.disk(spare):
                assert spare.name in kernel.sessions()
            assert spare.name not in kernel.sessions()

    @feature(Feature.CHAP)
    def test_chap_both_ways(self, kernel: OpenIscsi, process: Serving, notes: Notes) -> None:
        guarded = self.node(process, "guarded")
        with kernel.disk(guarded, _CHAP | _MUTUAL) as disk:
            write_and_compare(disk, "4k", 4)
        for bad in ({"node.session.auth.password": "no" * 8}, {"node.session.auth.password_in": "no" * 8}):
            with pytest.raises(CommandFailed, match=r"ended with (19|24)"), kernel.disk(guarded, _CHAP | _MUTUAL | bad):
                pass
            kernel.forget(guarded)
        notes.add("a wrong secret of either side is refused")

    @feature(Feature.CAPACITY)
    def test_capacity(self, disk: Disk) -> None:
        assert int(disk.lab.run(f"blockdev --getsize64 {disk.path}").out) == _SIZE

    @pytest.fixture(scope="class")
    @classmethod
    def lists(cls, disk: Disk) -> dict[str, str]:
        """What went wrong with lists of each class; one process tries them all, as its start takes long."""
        command = f"{disk.lab.build.python} -m tests.interop.guest_lists {disk.path} 16384 131072"
        said = disk.lab.run(f"cd {PROJECT} && {command}", seconds=_LISTS_SECONDS).out
        return dict(json.loads(line) for line in said.splitlines())

    @pytest.mark.parametrize("kind", [pytest.param(k, marks=feature(Feature(f"{k.value} lists"))) for k in SgClass])
    def test_lists(self, lists: dict[str, str], kind: SgClass) -> None:
        if lists[kind.value] == NO_MEMORY:
            raise NotOffered("the kernel's direct I/O answers EINVAL: it takes elements of whole blocks")
        assert not lists[kind.value]

    @feature(Feature.IMMEDIATE_DATA)
    def test_immediate_data(self, disk: Disk) -> None:
        assert disk.settings["ImmediateData"] == "Yes"
        write_and_compare(disk, "4k", 64)

    @feature(Feature.SIZES)
    def test_sizes(self, disk: Disk, notes: Notes) -> None:
        for block, count in (("512", 32), ("4k", 32), ("64k", 16), ("512k", 8), ("1M", 4), ("8M", 2)):
            write_and_compare(disk, block, count, seek=1)
        limit = disk.lab.run(f"cat /sys/block/{disk.name}/queue/max_sectors_kb").out.strip()
        notes.add(f"one command moves at most {limit} KiB, the kernel's limit")

    @feature(Feature.QUEUE_DEPTH)
    def test_queue_depth_32(self, disk: Disk) -> None:
        _fio(disk, "--bs=4k --iodepth=32 --size=8M --rw=randwrite")

    @feature(Feature.FIO)
    def test_fio_verify(self, disk: Disk) -> None:
        _fio(disk, "--bsrange=512-256k --blockalign=512 --iodepth=16 --size=32M --offset=64M --rw=randwrite")

    @feature(Feature.REMOTE_INVALIDATION)
    def test_remote_invalidation(self, kernel: OpenIscsi, spare: Node, lab: Machine) -> None:
        parameter = "/sys/module/ib_iser/parameters/debug_level"
        lab.run(f"echo 3 >{parameter}; dmesg -C")
        try:
            with kernel.disk(spare) as disk:
                write_and_compare(disk, "64k", 16)
        finally:
            said = lab.run(f"echo 0 >{parameter}; dmesg").out
        assert "negotiated remote invalidation" in said, [line for line in said.splitlines() if "invalid" in line]

    @feature(Feature.NOP)
    def test_pings_keep_an_idle_session(
        self, kernel: OpenIscsi, spare: Node, process: Serving, lab: Machine, notes: Notes
    ) -> None:
        lab.run("dmesg -C")
        with kernel.disk(spare, _PING_EACH_SECOND) as disk:
            time.sleep(6)
            assert "ping timeout" not in lab.run("dmesg").out
            process.signal(signal.SIGSTOP)
            try:
                _await(lambda: "ping timeout" in lab.run("dmesg").out, "the kernel does not ping", 15)
            finally:
                process.signal(signal.SIGCONT)
            write_and_compare(disk, "4k", 4)
        notes.add("each second; the kernel notices within 5 s when our target stands still, and reconnects")

    # Task management

    @feature(Feature.ABORT_TASK)
    def test_a_command_that_takes_too_long_is_aborted(self, kernel: OpenIscsi, process: Serving, notes: Notes) -> None:
        with kernel.disk(self.node(process, "slow")) as disk:
            trace = "/sys/module/libiscsi/parameters/debug_libiscsi_eh"
            disk.lab.run(f"dmesg -C; echo 2 >/sys/block/{disk.name}/device/timeout; echo 1 >{trace}")
            start = time.monotonic()
            disk.lab.run(f"dd if={disk.path} of=/dev/null bs=4k count=200 iflag=direct", seconds=90)
            assert time.monotonic() - start < _ABORT_DELAY
            stats = disk.lab.run(f"echo 0 >{trace}; iscsiadm -m session -s").out
            assert "tmfcmd_pdus: 1" in stats, stats
            said = disk.lab.run("dmesg").out
        took = _when(said, "iscsi_eh_abort abort success") - _when(said, "iscsi_eh_abort aborting sc")
        assert took < _ANSWER_SECONDS
        notes.add("a read that its disk holds for 40 s; the abort is answered at once")

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
    def test_our_target_is_killed_mid_io_and_restarted(
        self, kernel: OpenIscsi, process: Serving, lab: Machine, notes: Notes
    ) -> None:
        with kernel.disk(self.node(process, "file")) as disk:
            size = _FILE_SIZE * 3 // 4
            lab.run(f"dd if=/dev/urandom of=/run/big bs={size} count=1 iflag=fullblock status=none")
            load = lab.start(f"dd if=/run/big of={disk.path} bs=256k oflag=direct", seconds=150)
            time.sleep(1)
            assert not load.future.done()
            process.kill()
            time.sleep(1)
            process.start()
            load.wait().checked()
            lab.run(f"cmp -n {size} /run/big {disk.path}; rm /run/big")
        notes.add(
            "our target killed in the middle of a dd to a file LUN, started again: the dd ends well, no byte lost"
        )

    @feature(Feature.RECONNECT)
    def test_the_other_sessions_come_back_too(self, disk: Disk) -> None:
        write_and_compare(disk, "64k", 16)


def _when(text: str, what: str) -> float:
    """When the guest's kernel said so, in seconds since it booted.  Raises AssertionError."""
    line = next((line for line in text.splitlines() if what in line), "")
    assert line, f"the kernel did not say {what!r}"
    return float(line.partition("[")[2].partition("]")[0])


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
    write_and_compare(disk, "64k", 16)


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
