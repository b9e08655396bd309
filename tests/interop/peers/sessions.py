"""Sessions of the kernel's initiator, told apart by the interface of open-iscsi and the portal that they go by."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Self

from tests.interop.peers.open_iscsi import OpenIscsi
from tests.lab import LabError, Machine

__all__ = ["KernelSession", "prepare_guest"]

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_DISK_SECONDS: Final = 20.0  # from a login to its disk

_INTERFACE: Final = """set -e
iscsiadm -m iface -I {name} >/dev/null 2>&1 || iscsiadm -m iface -I {name} -o new
iscsiadm -m iface -I {name} -o update -n iface.initiatorname -v {initiator}
iscsiadm -m iface -I {name} -o update -n iface.transport_name -v {transport}
"""

#: Number and disk of a session, found by target, interface and port.
_FIND: Final = """
for s in /sys/class/iscsi_session/session*; do
  [ "$(cat $s/targetname) $(cat $s/ifacename)" = "{target} {interface}" ] || continue
  [ "$(cat $s/device/connection*/iscsi_connection/*/persistent_port)" = {port} ] || continue
  for d in $s/device/target*/*/block/*; do
    [ -b /dev/${{d##*/}} ] && [ "$(cat $d/device/state)" = running ] && echo ${{s##*session}} /dev/${{d##*/}}
  done
done
"""


def prepare_guest(lab: Machine) -> None:
    """Start iscsid, and load what the rows over TCP and those of the SCSI tools use."""
    OpenIscsi(lab)
    # There is no udev, which would make these names of block devices.
    lab.run("modprobe -a iscsi_tcp sg; mkdir -p /dev/block")


class KernelSession:
    """One session of the kernel with ``target`` by ``portal``.

    ``interface`` is open-iscsi's: ``default`` is TCP and ``iser`` iSER, both with the guest's own initiator name.
    """

    def __init__(self, lab: Machine, target: str, portal: str, interface: str = "default") -> None:
        self.lab = lab
        self.target = target
        self.portal = portal
        self._interface = interface
        self._node = f"-m node -T {target} -p {portal} -I {interface}"
        self.number = ""  # of the session
        self.path = ""  # of its disk in the guest

    @classmethod
    def of_initiator(cls, lab: Machine, target: str, portal: str, name: str, transport: str) -> Self:
        """One of the initiator ``iqn.2026-11.lab:NAME`` in the same guest; ``transport`` is ``tcp`` or ``iser``."""
        interface = f"{name}-{transport}"
        lab.run(_INTERFACE.format(name=interface, initiator=f"iqn.2026-11.lab:{name}", transport=transport))
        return cls(lab, target, portal, interface)

    @contextmanager
    def logged_in(self, settings: Mapping[str, str] = _NOTHING) -> Iterator[Self]:
        """Log in, find the disk, and log out in the end.  ``settings`` are of the node record."""
        try:
            self.login(settings)
            self.find_disk()
            yield self
        finally:
            self.logout()

    def login(self, settings: Mapping[str, str] = _NOTHING) -> None:
        """The record is made by hand: discovery tells the address on the far side of the NAT.  Raises CommandFailed."""
        lines = [
            f"iscsiadm {self._node} -o update -n '{name}' -v {shlex.quote(value)}" for name, value in settings.items()
        ]
        self.lab.run(
            "\n".join(["set -e", f"iscsiadm {self._node} -o new", *lines, f"iscsiadm {self._node} --login"]),
            seconds=90,
        )

    def logout(self) -> None:
        """And forget the record."""
        self.lab.run(f"iscsiadm {self._node} --logout; iscsiadm {self._node} -o delete", check=False, seconds=90)

    def rescan(self) -> None:
        """Have the kernel ask for the LUNs and their sizes anew."""
        self.lab.run(f"iscsiadm {self._node} --rescan")

    def find_disk(self) -> str:
        """The disk comes a while after the login.  Raises LabError."""
        port = self.portal.rpartition(":")[2]
        script = _FIND.format(target=self.target, interface=self._interface, port=port)
        end = time.monotonic() + _DISK_SECONDS
        while time.monotonic() < end:
            found = self.lab.run(script, check=False).out.split()
            if found:
                self.number, self.path = found[:2]
                number = f"$(cat /sys/block/{self.path.rpartition('/')[2]}/dev)"
                self.lab.run(f"ln -sfn {self.path} /dev/block/{number}")
                return self.path
            time.sleep(0.3)
        raise LabError(f"no disk of {self.target} within {_DISK_SECONDS:g} seconds")

    @property
    def settings(self) -> dict[str, str]:
        """What the login agreed on, by the names of the keys."""
        text = self.lab.run(f"iscsiadm -m session -r {self.number} -P 2").out
        return dict(re.findall(r"^\s*(\w+): (\S+)\s*$", text, re.MULTILINE))
