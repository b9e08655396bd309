"""Our target over plain TCP, on this machine, with the kernel's initiator and open-iscsi, in the guest."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import ClassVar, Final

import pytest

from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.ours import WORKER_NAMES, WORKER_TABLES, OurTarget
from tests.interop.peers.process import TargetProcess
from tests.interop.peers.sessions import KernelSession, prepare_guest
from tests.interop.recorder import Notes, feature
from tests.lab import HOST, CommandFailed, Machine

_MIB: Final = 1 << 20
_SIZE: Final = 256 * _MIB
_USER, _SECRET = "alice", "alice's-own-secret"
_TARGET_USER, _TARGET_SECRET = "storage", "the-target's-secret"
_ALGORITHMS: Final = ("md5", "sha1", "sha256", "sha3-256")
_GUARDED_NAME: Final = "iqn.2026-11.lab:guarded"
_GUARDED: Final = f"""
[chap.{_USER}]
secret_env = "USER_SECRET"
[chap.{_TARGET_USER}]
secret_env = "TARGET_SECRET"
[discovery]
chap = ["{_USER}"]
[access]
algorithms = ["{{algorithm}}"]
[[target]]
name = "{_GUARDED_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = "16M"
[[target.acl]]
initiator = "*"
chap = ["{_USER}"]
mutual = "{_TARGET_USER}"
"""
#: In the guest: whoever connects to these ports of its loopback reaches those of ours.
_RELAY: Final = f"""
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def relay(port):
    async def client(reader, writer):
        theirs, ours = await asyncio.open_connection({HOST!r}, port)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer), return_exceptions=True)
    return await asyncio.start_server(client, "127.0.0.1", port)

async def main():
    servers = [await relay(int(port)) for port in sys.argv[1:]]
    await servers[0].serve_forever()

asyncio.run(main())
"""
_LOGIN_AUTH_FAILED: Final = 24  # iscsiadm's exit code, ISCSI_ERR_LOGIN_AUTH_FAILED
_LOGIN_FATAL: Final = 19  # and ISCSI_ERR_FATAL_LOGIN
_TREE: Final = "/usr/share/perl5"
_SUMS: Final = "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"


@pytest.fixture(scope="module", autouse=True)
def _guest(lab: Machine) -> None:
    prepare_guest(lab)


def _file(size: int) -> str:
    return f'backend = "file"\npath = "disk.img"\nsize = {size}\nthin = true'


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    """A disk in a sparse file."""
    folder = tmp_path_factory.mktemp("tcp")
    target = OurTarget(folder, "iqn.2026-11.lab:tcp", _file(_SIZE), scheme="iscsi")
    with target.serving():
        yield target
        assert "Traceback" not in target.log


@pytest.fixture(scope="module")
def image(target: OurTarget) -> Path:
    """The file behind the disk."""
    return Path(target.command("luns")[0]["backend"])


@pytest.fixture(scope="module")
def disk(lab: Machine, target: OurTarget) -> Iterator[KernelSession]:
    """Logged in to, for the tests that do not care about logins."""
    with KernelSession(lab, target.name, target.portal).logged_in() as session:
        yield session


@pytest.fixture(scope="module")
def workers(lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetProcess]:
    """Two targets on two workers, whose own ports the guest reaches at the address that we call ourselves."""
    target = TargetProcess(tmp_path_factory.mktemp("workers"), WORKER_TABLES, ("iscsi",), keys="workers = 2\n")
    with target.serving():
        ports = [view["ports"]["p0"] for view in target.command("status")["workers"]]
        relay = lab.start(f"exec python3 - {' '.join(map(str, ports))}", stdin=_RELAY.encode(), seconds=600)
        yield target
        relay.kill()


def _run(disk: KernelSession, script: str) -> str:
    """A script with the disk as ``$disk``, in a folder in memory; what it prints."""
    return disk.lab.run(f"set -e; cd /run; disk={disk.path}\n{script}", seconds=200.0).out


def _numbers(mib: int) -> str:
    """A command that prints that many MiB which are nowhere the same; cheaper than random ones under emulation."""
    return f"seq 1000000000 9999999999 | head -c {mib}M"


def _write_and_compare(disk: KernelSession, block: str, count: int) -> None:
    """``count`` blocks of random data out and back, past the cache."""
    _run(
        disk,
        f"""dd if=/dev/urandom of=source bs={block} count={count} status=none
        dd if=source of=$disk bs={block} seek=1 oflag=direct status=none
        dd if=$disk of=copy bs={block} skip=1 count={count} iflag=direct status=none
        cmp source copy; rm source copy""",
    )


def _fio(disk: KernelSession, options: str) -> None:
    """Write with ``options``, read all back, compare."""
    _run(
        disk,
        "fio --name=lab --filename=$disk --direct=1 --ioengine=libaio --verify=crc32c --do_verify=1 --verify_fatal=1"
        f" --group_reporting --randrepeat=1 {options}",
    )


class TestOpenIscsi:
    """Features, the destructive ones last."""

    row: ClassVar = Row("target", "Linux open-iscsi", Fabric.TCP)

    @feature(Feature.DISCOVERY)
    def test_discovery(self, lab: Machine, target: OurTarget) -> None:
        said = lab.run(f"iscsiadm -m discovery -t st -p {target.portal}").out
        # What it tells is the address on the far side of the NAT, which nobody may log in to.
        lab.run(f"iscsiadm -m node -T {target.name} -o delete")
        assert said.split()[-1] == target.name

    @feature(Feature.LOGIN)
    def test_login(self, disk: KernelSession, notes: Notes) -> None:
        found = disk.settings
        keys = ("ImmediateData", "InitialR2T", "FirstBurstLength", "MaxBurstLength", "MaxOutstandingR2T")
        notes.add(", ".join(f"{key}={found.get(key)}" for key in keys))
        assert found["HeaderDigest"] == found["DataDigest"] == "None"

    @feature(Feature.LOGOUT)
    def test_logout(self, lab: Machine, target: OurTarget) -> None:
        before = target.log.count("logged out")
        with KernelSession.of_initiator(lab, target.name, target.portal, "guest", "tcp").logged_in():
            assert target.log.count("logged out") == before
        assert target.log.count("logged out") == before + 1

    @feature(Feature.CAPACITY)
    def test_capacity(self, disk: KernelSession) -> None:
        assert int(_run(disk, "blockdev --getsize64 $disk")) == _SIZE

    @feature(Feature.SIZES)
    def test_sizes(self, disk: KernelSession, notes: Notes) -> None:
        for block, count in (("512", 32), ("64k", 16), ("8M", 1)):
            _write_and_compare(disk, block, count)
        limit = _run(disk, "cat /sys/block/${disk##*/}/queue/max_sectors_kb").strip()
        notes.add(f"one command moves at most {limit} KiB, what our target calls optimal")

    @feature(Feature.UNSOLICITED_DATA)
    def test_unsolicited_data(self, lab: Machine, tmp_path: Path) -> None:
        target = OurTarget(tmp_path, "iqn.2026-11.lab:unsolicited", _file(_SIZE), "initial_r2t = false", "iscsi")
        with target.serving(), KernelSession(lab, target.name, target.portal).logged_in() as disk:
            assert disk.settings["InitialR2T"] == "No"
            for block in ("12k", "512k"):
                _write_and_compare(disk, block, 8)

    @feature(Feature.QUEUE_DEPTH)
    def test_queue_depth_32(self, disk: KernelSession) -> None:
        _fio(disk, "--bs=4k --iodepth=32 --size=4M --rw=randwrite")

    @feature(Feature.FIO)
    def test_fio_verify(self, disk: KernelSession) -> None:
        _fio(disk, "--bsrange=512-256k --blockalign=512 --iodepth=16 --size=24M --offset=64M --rw=randwrite")

    @feature(Feature.EXT4)
    def test_ext4(self, disk: KernelSession) -> None:
        sums = _run(
            disk,
            f"""mkfs.ext4 -q -F $disk; mount $disk /mnt/lab; cp -a {_TREE} /mnt/lab/tree; umount /mnt/lab
            e2fsck -fn $disk >&2; echo 3 >/proc/sys/vm/drop_caches; mount $disk /mnt/lab
            cd {_TREE}; {_SUMS}; cd /mnt/lab/tree; {_SUMS}; cd /; umount /mnt/lab""",
        ).split()
        assert sums[0] == sums[2]

    @feature(Feature.DIGESTS)
    def test_digests(self, lab: Machine, target: OurTarget, disk: KernelSession, notes: Notes) -> None:
        del disk  # its writes are done
        settings = {f"node.conn[0].iscsi.{kind}Digest": "CRC32C" for kind in ("Header", "Data")}
        other = KernelSession.of_initiator(lab, target.name, target.portal, "digests", "tcp")
        with other.logged_in(settings) as session:
            found = session.settings
            assert found["HeaderDigest"] == found["DataDigest"] == "CRC32C"
            _write_and_compare(session, "1M", 4)
            _fio(session, "--bsrange=512-256k --blockalign=512 --iodepth=16 --size=8M --offset=16M --rw=randwrite")
            statistics = lab.run("iscsiadm -m session -s").out
        assert "digest_err: 0" in statistics
        notes.add("CRC32C both; fio verifies mixed sizes")

    @feature(Feature.UNMAP)
    def test_discarded_blocks_are_holes_in_the_file(self, disk: KernelSession, image: Path) -> None:
        _run(disk, f"{_numbers(32)} | dd of=$disk bs=1M iflag=fullblock oflag=direct status=none; sync $disk")
        before = image.stat().st_blocks
        _run(disk, "blkdiscard -o 8M -l 16M $disk")
        assert before - image.stat().st_blocks >= 16 * _MIB // 512
        _run(disk, f"cmp -n {16 * _MIB} -i {8 * _MIB}:0 $disk /dev/zero; {_numbers(8)} | cmp -n {8 * _MIB} - $disk")

    @feature(Feature.UNMAP)
    def test_trimmed_file_systems_give_space_back(self, disk: KernelSession, image: Path, notes: Notes) -> None:
        _run(
            disk,
            f"mkfs.ext4 -q -F $disk; mount $disk /mnt/lab; {_numbers(24)} >/mnt/lab/file; sync",
        )
        before = image.stat().st_blocks
        _run(disk, "rm /mnt/lab/file; sync; fstrim /mnt/lab; umount /mnt/lab; e2fsck -fn $disk >&2")
        assert before - image.stat().st_blocks >= 20 * _MIB // 512
        notes.add("blkdiscard and fstrim punch holes into the file behind the LUN")

    @feature(Feature.RESIZE)
    def test_online_resize(self, disk: KernelSession, target: OurTarget, notes: Notes) -> None:
        _run(disk, "mkfs.ext4 -q -F $disk; mount $disk /mnt/lab; echo kept >/mnt/lab/file")
        target.command("resize", "0", str(2 * _SIZE))
        target.tables = target.tables.replace(str(_SIZE), str(2 * _SIZE))  # for later starts, as one has to
        disk.rescan()
        size = _run(
            disk,
            """blockdev --getsize64 $disk; resize2fs $disk >&2; [ "$(cat /mnt/lab/file)" = kept ]
            umount /mnt/lab; e2fsck -fn $disk >&2""",
        )
        assert int(size) == 2 * _SIZE
        notes.add("seen after iscsiadm --rescan, with a mounted ext4, which resize2fs grows")

    # Access

    @feature(Feature.CHAP)
    def test_chap(self, lab: Machine, tmp_path: Path, notes: Notes) -> None:
        settings = {"node.session.auth.authmethod": "CHAP", **_names("node.session.auth", "")}
        both = settings | _names("node.session.auth", "_in")
        with _guarded(tmp_path) as target:
            for algorithm in _ALGORITHMS:
                target.tables = _GUARDED.format(algorithm=algorithm)
                target.reload()
                offer = {"node.session.auth.chap_algs": algorithm.upper()}
                with _session(lab, target).logged_in(both | offer):
                    pass
            with _session(lab, target).logged_in(settings | offer):
                pass
            assert target.log.count("as=alice") == len(_ALGORITHMS) + 1
        notes.add("mutual with MD5, SHA-1, SHA-256 and SHA3-256, one at a time; one way")

    @feature(Feature.CHAP)
    def test_wrong_secrets_are_refused(self, lab: Machine, tmp_path: Path, notes: Notes) -> None:
        settings = {"node.session.auth.authmethod": "CHAP", **_names("node.session.auth", "")}
        both = settings | _names("node.session.auth", "_in")
        wrong = "wrong-secret-of-them"
        with _guarded(tmp_path) as target:
            for login, code in (
                ({}, _LOGIN_AUTH_FAILED),
                (settings | {"node.session.auth.password": wrong}, _LOGIN_AUTH_FAILED),
                (settings | {"node.session.auth.username": "mallory"}, _LOGIN_AUTH_FAILED),
                (both | {"node.session.auth.password_in": wrong}, _LOGIN_FATAL),
            ):
                with pytest.raises(CommandFailed) as caught, _session(lab, target).logged_in(login):
                    pass
                assert caught.value.result.exit == code, login
            assert target.log.count("denied initiator=") == 3  # the last one is who refuses us
        notes.add("no secret, a wrong one of either side and an unknown user are refused")

    @feature(Feature.CHAP)
    def test_discovery_asks_for_chap(self, lab: Machine, tmp_path: Path) -> None:
        settings = {"discovery.sendtargets.auth.authmethod": "CHAP", **_names("discovery.sendtargets.auth", "")}
        with _guarded(tmp_path) as target:
            base = f"iscsiadm -m discoverydb -t st -p {target.portal_of(0)}"
            updates = "\n".join(
                f"{base} -o update -n {name} -v {shlex.quote(value)}" for name, value in settings.items()
            )
            refused = lab.run(f"{base} -o new >/dev/null; {base} --discover", check=False)
            said = lab.run(f"{updates}\n{base} --discover; {base} -o delete; iscsiadm -m node -o delete", check=False)
        assert refused.exit == _LOGIN_AUTH_FAILED
        assert _GUARDED_NAME in said.out

    # The end of a connection

    @feature(Feature.PEER_KILLED)
    def test_the_connection_is_cut_mid_io(
        self, lab: Machine, target: OurTarget, disk: KernelSession, notes: Notes
    ) -> None:
        load = lab.start(f"dd if=/dev/zero of={disk.path} bs=64k count=1000 oflag=direct", seconds=120)
        time.sleep(0.5)
        assert not load.future.done()
        before = target.log.count("connection ended")
        lab.run(f"ss -K dst 10.0.2.2 dport = {target.port}")
        load.wait().checked()  # the kernel reconnects, and goes on where it was
        assert target.log.count("connection ended") == before + 1
        _write_and_compare(disk, "64k", 16)
        notes.add("its TCP connection reset in the guest, in the middle of a dd")

    @feature(Feature.RECONNECT)
    def test_our_target_is_killed_mid_io_and_restarted(
        self, lab: Machine, target: OurTarget, disk: KernelSession, notes: Notes
    ) -> None:
        lab.run(f"{_numbers(48)} >/run/big")
        load = lab.start(f"dd if=/run/big of={disk.path} bs=64k oflag=direct", seconds=150)
        time.sleep(0.5)
        assert not load.future.done()
        target.kill()
        time.sleep(1)
        target.start()
        load.wait().checked()
        lab.run(f"cmp -n {48 * _MIB} /run/big {disk.path}; rm /run/big")
        notes.add("our target killed in the middle of a dd, started again: the dd ends well, all bytes there")

    # Several processes

    @feature(Feature.LOGIN)
    def test_a_login_is_redirected_to_the_worker_of_its_target(
        self, lab: Machine, workers: TargetProcess, notes: Notes
    ) -> None:
        first, second = (view["ports"]["p0"] for view in workers.command("status")["workers"])
        for name, wrong, right in zip(WORKER_NAMES, (second, first), (first, second), strict=True):
            with KernelSession(lab, name, f"{HOST}:{wrong}").logged_in() as session:
                _write_and_compare(session, "64k", 8)
                connection = f"/sys/class/iscsi_session/session{session.number}/device/connection*/iscsi_connection/*"
                assert int(lab.run(f"cat {connection}/port").out) == right
        notes.add("redirected (0101) from one worker to the other")

    @feature(Feature.RECONNECT)
    def test_a_worker_is_killed_mid_io(self, lab: Machine, workers: TargetProcess, notes: Notes) -> None:
        with KernelSession(lab, WORKER_NAMES[1], workers.portal_of(0)).logged_in() as disk:
            load = lab.start(f"{_numbers(8)} | dd of={disk.path} bs=16k iflag=fullblock oflag=direct", seconds=150)
            time.sleep(0.5)
            assert not load.future.done()
            os.kill(workers.command("status")["workers"][1]["pid"], SIGKILL)
            load.wait().checked()
        one, two = workers.command("status")["workers"]
        assert (one["restarts"], two["restarts"]) == (0, 1)
        notes.add("a worker killed in the middle of a dd comes back, and the dd ends well")


def _names(prefix: str, suffix: str) -> dict[str, str]:
    """User and secret of the initiator, or with ``_in`` of the target."""
    user, secret = (_TARGET_USER, _TARGET_SECRET) if suffix else (_USER, _SECRET)
    return {f"{prefix}.username{suffix}": user, f"{prefix}.password{suffix}": secret}


@contextmanager
def _guarded(folder: Path) -> Iterator[TargetProcess]:
    """A target that asks for CHAP, and so does discovery."""
    secrets = {"USER_SECRET": _SECRET, "TARGET_SECRET": _TARGET_SECRET}
    target = TargetProcess(folder, _GUARDED.format(algorithm=_ALGORITHMS[0]), ("iscsi",), secrets)
    with target.serving():
        yield target


def _session(lab: Machine, target: TargetProcess) -> KernelSession:
    return KernelSession(lab, _GUARDED_NAME, target.portal_of(0))
