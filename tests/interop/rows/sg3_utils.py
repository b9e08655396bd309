"""A LUN of our target, on this machine, under the SCSI tools of sg3_utils and ddpt, in the guest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Final

import pytest

from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.ours import OurTarget
from tests.interop.peers.sessions import KernelSession, prepare_guest
from tests.interop.recorder import Notes, feature
from tests.lab import Machine

_SIZE: Final = 64 << 20
_BLOCKS: Final = _SIZE // 512
_ATTENTION, _MISCOMPARE = 6, 14  # exit codes of sg3_utils


@pytest.fixture(scope="module", autouse=True)
def _guest(lab: Machine) -> None:
    prepare_guest(lab)


@pytest.fixture(scope="module")
def disk(lab: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelSession]:
    """A thin disk in a file, logged in to."""
    lun = f'backend = "file"\npath = "disk.img"\nsize = {_SIZE}\nthin = true\nserial = "0123456789abcdef"'
    target = OurTarget(tmp_path_factory.mktemp("sg3"), "iqn.2026-11.lab:sg3", lun, scheme="iscsi")
    with target.serving(), KernelSession(lab, target.name, target.portal).logged_in() as session:
        yield session
        assert "Traceback" not in target.log


def _say(disk: KernelSession, script: str, code: int = 0) -> str:
    """What a script with its ``$disk`` prints, in a folder in memory; it has to end with ``code``."""
    result = disk.lab.run(f"set -e; cd /run; disk={disk.path}\n{script}", check=False)
    assert result.exit == code, f"{result.exit}: {result.out[-500:]}{result.err[-500:]}"
    return result.out + result.err


def _provisioning(disk: KernelSession) -> list[tuple[int, int, int]]:
    """First block, blocks and provisioning status of each descriptor that GET LBA STATUS tells."""
    lines = _say(disk, "sg_get_lba_status --brief --lba=0 --maxlen=1024 $disk")
    return [
        (int(first, 16), int(count, 16), int(status))
        for first, count, status in re.findall(r"^(0x\w+)\s+(0x\w+)\s+(\d+)", lines, re.MULTILINE)
    ]


class TestSg3Utils:
    """Features; what tells comes before what changes."""

    row: ClassVar = Row("target", "sg3_utils", Fabric.TCP)

    @feature(Feature.SG_INQUIRY)
    def test_inquiry(self, disk: KernelSession) -> None:
        said = _say(disk, "sg_inq -d $disk")
        assert "Vendor identification: ISER-PY" in said
        assert "PDT=0" in said
        assert "[SPC-4]" in said
        for standard in ("SAM-5", "SPC-4", "SBC-3", "iSCSI"):
            assert standard in said.partition("Version descriptors:")[2]

    @feature(Feature.SG_INQUIRY)
    def test_every_page_that_it_lists_can_be_had(self, disk: KernelSession, notes: Notes) -> None:
        pages = re.findall(r"\[(\w+)\]", _say(disk, "sg_vpd $disk"))
        assert {"sv", "sn", "di", "ei", "bl", "bdc", "lbpv"} <= set(pages)
        said = _say(disk, "\n".join(f"sg_vpd -p {page} $disk" for page in pages))
        assert "Unit serial number: 0123456789abcdef" in said
        assert "iqn.2026-11.lab:sg3,t,0x0001" in said  # the target port's name
        assert "Unmap command supported (LBPU): 1" in said
        assert "Provisioning type: 2 (thin provisioned)" in said
        longest = re.search(r"Maximum transfer length: (\d+) blocks", said)
        assert longest
        assert int(longest[1]) * 512 == 8 << 20
        notes.add(f"VPD pages: {', '.join(pages)}")

    @feature(Feature.SG_PAGES)
    def test_mode_pages(self, disk: KernelSession) -> None:
        said = _say(disk, "sg_modes -a $disk; sg_modes --six -a $disk; sg_modes -c 1 -a $disk; sg_modes -c 2 -a $disk")
        for page in ("Caching", "Control", "Informational exceptions control"):
            assert said.count(f"{page}, page_control") == 4
        assert said.count("DpoFua=1") == 4

    @feature(Feature.SG_PAGES)
    def test_the_write_cache_is_turned_off_and_on(self, disk: KernelSession) -> None:
        said = _say(
            disk,
            """cache() { sg_wr_mode -p 8 -c 88,12,$1 -m 0,0,4 $disk
            echo 1 >/sys/block/${disk##*/}/device/rescan; cat /sys/block/${disk##*/}/queue/write_cache; }
            cache 0; cache 4""",
        )
        assert said.splitlines() == ["write through", "write back"]

    @feature(Feature.SG_PAGES)
    def test_log_pages(self, disk: KernelSession) -> None:
        said = _say(disk, "sg_logs -a $disk")
        assert "Supported log pages" in said
        assert "Informational Exceptions page" in said

    @feature(Feature.SG_OPCODES)
    def test_operation_codes(self, disk: KernelSession, notes: Notes) -> None:
        said = _say(disk, "sg_opcodes --unsorted $disk")
        rows = re.findall(r"^ ([0-9a-f]{2}) .*?\d+,\d+ +(\S.*)$", said, re.MULTILINE)
        names = {name.lower() for _, name in rows}
        assert {"inquiry", "read(16)", "write same(16)", "unmap", "compare and write", "verify(10)"} <= names
        one = _say(disk, "sg_opcodes --rctd --opcode=0x28 $disk")
        assert "Command is supported [conforming to SCSI standard]" in one
        assert len(rows) > 50
        notes.add(f"{len(rows)} commands reported")

    @feature(Feature.SG_OPCODES)
    def test_task_functions_and_luns(self, disk: KernelSession) -> None:
        said = _say(disk, "sg_opcodes --tmf $disk")
        for function in ("Abort task", "Abort task set", "Clear task set", "Logical unit reset"):
            assert function in said
        assert "lun=0" in _say(disk, "sg_luns -d $disk")

    @feature(Feature.SG_PORTS)
    def test_port_groups(self, disk: KernelSession) -> None:
        for form in ("", "--extended"):
            said = _say(disk, f"sg_rtpg -d {form} $disk")
            assert "target port group id : 0x1" in said
            assert "active/optimized" in said

    @feature(Feature.SG_CAPACITY)
    def test_capacity_and_readiness(self, disk: KernelSession) -> None:
        said = _say(disk, "sg_readcap $disk; sg_readcap --long $disk")
        assert said.count(f"Number of logical blocks={_BLOCKS}") == 2  # by READ CAPACITY(10) and (16)
        assert "lbpme=1, lbprz=1" in said
        _say(disk, "sg_turs -n 3 $disk; sg_sync $disk; sg_sync --16 --lba=8 --count=8 $disk; sg_requests $disk")
        _say(disk, "sg_start --start $disk; sg_prevent --allow $disk")

    @feature(Feature.SG_THIN)
    def test_thin_provisioning(self, disk: KernelSession) -> None:
        _say(disk, "sg_unmap --force --all=0,65536 $disk")
        assert {status for *_, status in _provisioning(disk)} == {1}
        _say(disk, "seq 1000000 | head -c 1M >seq; dd if=seq of=$disk bs=64k oflag=direct status=none")
        _say(disk, "sg_unmap --force --lba=512 --num=256 $disk")
        assert _provisioning(disk)[:4] == [(0, 512, 0), (512, 256, 1), (768, 1280, 0), (2048, _BLOCKS - 2048, 1)]
        _say(disk, "cmp -n 131072 -i 262144:0 $disk /dev/zero; cmp -n 262144 $disk seq")

    @feature(Feature.SG_THIN)
    def test_write_same(self, disk: KernelSession) -> None:
        _say(
            disk,
            """seq 1000000 | head -c 1M >seq; dd if=seq of=$disk bs=64k oflag=direct status=none
            head -c 512 /dev/urandom >block; for i in $(seq 16); do cat block; done >many
            sg_write_same --10 --in=block --lba=100 --num=16 $disk
            sg_write_same --16 --in=block --lba=200 --num=16 $disk
            sg_write_same --16 --ndob --lba=300 --num=16 $disk
            sg_write_same --16 --unmap --lba=512 --num=64 $disk
            read_at() { dd if=$disk bs=512 skip=$1 count=16 iflag=direct status=none; }
            for at in 100 200; do read_at $at | cmp - many; done
            for at in 300 512; do read_at $at | cmp -n 8192 - /dev/zero; done
            read_at 116 | cmp -n 8192 -i 0:59392 - seq""",
        )
        assert (512, 64, 1) in _provisioning(disk)

    @feature(Feature.SG_VERIFY)
    def test_verify(self, disk: KernelSession) -> None:
        _say(
            disk,
            """seq 1000000 | head -c 64k >seq; dd if=seq of=$disk bs=64k oflag=direct status=none
            sg_verify --lba=0 --count=128 $disk; sg_verify --16 --lba=0 --count=128 $disk
            dd if=seq of=two bs=512 skip=3 count=2 status=none
            sg_verify --lba=3 --count=2 --ndo=1024 --in=two $disk
            head -c 512 /dev/urandom >block
            sg_write_verify --lba=9 --num=1 --in=block $disk
            sg_write_verify --16 --bytchk=1 --lba=10 --num=1 --in=block $disk
            sg_verify --lba=9 --count=2 --ebytchk=3 --ndo=512 --in=block $disk""",
        )
        said = _say(disk, "sg_verify --lba=4 --count=2 --ndo=1024 --in=two $disk", _MISCOMPARE)
        assert "MISCOMPARE" in said

    @feature(Feature.SG_COMPARE)
    def test_compare_and_write(self, disk: KernelSession) -> None:
        swap = "sg_compare_and_write --lba=64 --num=2 --in=pair $disk"
        _say(
            disk,
            f"""head -c 1024 /dev/urandom >old; head -c 1024 /dev/urandom >new; cat old new >pair
            dd if=old of=$disk bs=512 seek=64 oflag=direct status=none
            {swap}; dd if=$disk bs=512 skip=64 count=2 iflag=direct status=none | cmp - new""",
        )
        assert "Miscompare" in _say(disk, swap, _MISCOMPARE)

    @feature(Feature.SG_COPY)
    def test_copies(self, disk: KernelSession, notes: Notes) -> None:
        said = _say(
            disk,
            """seq 1000000 | head -c 1M >seq; dd if=seq of=$disk bs=64k oflag=direct status=none
            copied() { cmp -n $2 -i $(($1 * 512)):0 $disk seq; }
            sg_xcopy if=$disk of=$disk skip=0 seek=8192 count=1024; copied 8192 524288
            ddpt if=$disk of=$disk skip=0 seek=16384 count=2048 bs=512 --xcopy iflag=direct; copied 16384 1048576
            sg_copy_results --params $disk""",
        )
        assert "Identification descriptor" in said
        notes.add("by sg_xcopy and ddpt")

    @feature(Feature.SG_IO)
    def test_reads_and_writes(self, disk: KernelSession) -> None:
        _say(
            disk,
            """seq 1000000 | head -c 4M >seq
            sgp_dd if=seq of=$disk bs=512 count=8192 bpt=64 thr=4
             sgp_dd if=$disk of=copy bs=512 count=8192 bpt=128 thr=8
            cmp seq copy
            for size in 6 10 12 16; do sg_dd if=$disk of=copy bs=512 count=64 cdbsz=$size blk_sgio=1
            cmp -n 32768 seq copy; done
            sg_dd if=seq of=$disk bs=512 count=64 seek=4096 cdbsz=16 blk_sgio=1 oflag=fua,direct
            cmp -n 32768 -i 2097152:0 $disk seq
            sg_read if=$disk bs=512 count=8192 bpt=64; sgm_dd if=$disk of=/dev/null bs=512 count=1024""",
        )

    @feature(Feature.SG_RESET)
    def test_resets(self, disk: KernelSession, notes: Notes) -> None:
        for kind in ("--device", "--target"):
            _say(disk, f"sg_reset {kind} $disk")
            said = _say(disk, "sg_turs -v $disk", _ATTENTION)
            assert "Bus device reset function occurred" in said
            _say(disk, "sg_turs $disk")
        notes.add("of the unit and of the target; each is told once")

    @feature(Feature.SG_SANITIZE)
    def test_sanitize(self, disk: KernelSession, notes: Notes) -> None:
        _say(disk, "seq 1000000 | head -c 1M | dd of=$disk bs=64k iflag=fullblock oflag=direct status=none")
        _say(disk, "sg_sanitize --quick --wait --overwrite --zero $disk; cmp -n 1048576 $disk /dev/zero")
        _say(disk, "sg_sanitize --quick --wait --block $disk")
        assert {status for *_, status in _provisioning(disk)} == {1}
        notes.add("overwrite and block erase")
