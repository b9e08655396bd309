"""dm-multipath in the guest: multipathd, and the udev that it asks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.lab import LabError, Machine
from tests.lab.build import FOLDER
from tests.lab.packages import download, version_of

__all__ = ["multipath_device", "path_states", "running_multipathd"]

#: Unpacked in the guest only: on this machine multipathd would come up with the next boot.
_PACKAGES: Final = (
    "dmsetup", "kpartx", "libaio1", "libdevmapper1.02.1", "libedit2", "libjson-c5", "liburcu8", "multipath-tools",
    "udev",
)  # fmt: skip
_DEVICE_SECONDS: Final = 20.0
_SETUP: Final = """set -e
modprobe -a dm_multipath dm_service_time dm_round_robin scsi_dh_alua
cat >/etc/multipath.conf <<'END'
defaults {
  find_multipaths no
  polling_interval 1
  max_polling_interval 1
  path_grouping_policy group_by_prio
}
blacklist {
  devnode "^(ram|loop|zram|dm-)"
}
END
pidof systemd-udevd >/dev/null || /lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=block
udevadm settle
multipathd
"""
_END: Final = "multipathd shutdown; multipath -F; killall systemd-udevd"


@contextmanager
def running_multipathd(lab: Machine) -> Iterator[None]:
    """While it lasts.  Raises LabUnavailable where its packages cannot be had."""
    wanted = [name for name in _PACKAGES if not version_of(name)]
    for package in download(wanted, FOLDER / "debs"):
        lab.run(f"dpkg-deb --fsys-tarfile {package} | tar -x -C / --keep-directory-symlink")
    lab.run(_SETUP)
    try:
        yield
    finally:
        lab.run(_END, check=False)


def multipath_device(lab: Machine) -> str:
    """The device of the one map, as soon as it is there.  Raises LabError."""
    end = time.monotonic() + _DEVICE_SECONDS
    while time.monotonic() < end:
        found = lab.run("dmsetup ls --target multipath", check=False).out.split()
        if found and found[0] != "No":
            return f"/dev/mapper/{found[0]}"
        time.sleep(0.5)
    raise LabError(f"multipathd made no map within {_DEVICE_SECONDS:g} seconds")


def path_states(lab: Machine) -> dict[str, str]:
    """The state of each path, by its device, as ``active`` or ``failed``."""
    said = lab.run("multipath -ll", check=False).out
    return dict(re.findall(r"\d+:\d+:\d+:\d+ +(\w+) +\d+:\d+ +(\w+)", said))
