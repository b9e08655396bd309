"""Two portals of our target on this machine, and dm-multipath over both in the guest, when one of them goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

import pytest

from tests.interop.matrix import Fabric, Feature, Row
from tests.interop.peers.multipath import multipath_device, path_states, running_multipathd
from tests.interop.peers.process import TargetProcess
from tests.interop.peers.sessions import KernelSession, prepare_guest
from tests.interop.recorder import Notes, feature
from tests.lab import LabUnavailable, Machine

_NAME: Final = "iqn.2026-11.lab:paths"
_SIZE: Final = 64 << 20
_TABLES: Final = f"""
[[target]]
name = "{_NAME}"
[[target.lun]]
id = 0
backend = "memory"
size = {_SIZE}
"""
#: Notice the end of a path soon, and fail its commands.
_IMPATIENT: Final = {
    "node.session.timeo.replacement_timeout": "2",
    "node.conn[0].timeo.noop_out_interval": "1",
    "node.conn[0].timeo.noop_out_timeout": "2",
}


class TestMultipath:
    """One disk by two sessions."""

    row: ClassVar = Row("target", "Linux open-iscsi", Fabric.TCP)

    @feature(Feature.MULTIPATH)
    def test_a_portal_goes_and_comes_back(self, lab: Machine, tmp_path: Path, notes: Notes) -> None:
        prepare_guest(lab)
        target = TargetProcess(tmp_path, _TABLES, ("iscsi", "iscsi"))
        with target.serving():
            first, second = (KernelSession(lab, _NAME, target.portal_of(number)) for number in range(2))
            with first.logged_in(_IMPATIENT), second.logged_in(_IMPATIENT):
                try:
                    with running_multipathd(lab):
                        _fail_over(lab, target, (first, second))
                except LabUnavailable as why:
                    pytest.skip(str(why))
            assert "Traceback" not in target.log
        notes.add("dm-multipath with ALUA: a portal is taken away by a reload in the middle of fio, and comes back")


def _fail_over(lab: Machine, target: TargetProcess, paths: tuple[KernelSession, KernelSession]) -> None:
    device = multipath_device(lab)
    names = [path.path.removeprefix("/dev/") for path in paths]
    assert path_states(lab) == dict.fromkeys(names, "active")
    assert "hwhandler='1 alua'" in lab.run("multipath -ll").out
    load = lab.start(
        f"fio --name=lab --filename={device} --direct=1 --ioengine=libaio --iodepth=4 --bs=16k --size=16M"
        " --rw=randwrite --rate_iops=200 --verify=crc32c --do_verify=1 --verify_fatal=1",
        seconds=120,
    )
    time.sleep(2)
    target.reload([1])
    _await(lambda: path_states(lab).get(names[0]) == "failed", "the path did not fail")
    assert path_states(lab)[names[1]] == "active"
    target.reload()
    _await(lambda: path_states(lab) == dict.fromkeys(names, "active"), "the path did not come back")
    load.wait().checked()


def _await(condition: Callable[[], bool], otherwise: str, seconds: float = 40.0) -> None:
    """Ask twice a second until it is so.  Raises AssertionError."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.5)
