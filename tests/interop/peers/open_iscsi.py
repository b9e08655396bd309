"""The kernel's initiator, ib_iser, and open-iscsi, in the guest."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from tests.lab import LabError, Machine

__all__ = ["NAME", "Disk", "OpenIscsi", "Target"]

NAME: Final = "iqn.2026-11.lab:kernel"
_NONE: Final[Mapping[str, str]] = {}
_DISK_SECONDS: Final = 15.0  # from a login to its disk

_SETUP: Final = f"""
set -e
modprobe -a ib_iser sd_mod ext4 xfs
mkdir -p /etc/iscsi /mnt/lab
echo InitiatorName={NAME} >/etc/iscsi/initiatorname.iscsi
pidof iscsid >/dev/null || iscsid
for i in $(seq 100); do
  code=0
  iscsiadm -m session >/dev/null 2>&1 || code=$?
  [ $code = 0 ] || [ $code = 21 ] && exit 0 # it answers, and has sessions, or has none
  sleep 0.1
done
echo iscsid does not answer >&2
exit 1
"""


class Target(Protocol):
    """What is asked of a target to log in to."""

    @property
    def name(self) -> str:
        """Its iSCSI name."""

    @property
    def portal(self) -> str:
        """As the guest reaches it."""


class Disk:
    """A LUN, logged in to.  ``path`` is its device in the guest, ``settings`` what the login agreed on."""

    def __init__(self, lab: Machine, path: str, settings: dict[str, str]) -> None:
        self.lab = lab
        self.path = path
        self.settings = settings

    @property
    def name(self) -> str:
        """The device without its folder."""
        return self.path.rpartition("/")[2]


class OpenIscsi:
    """Logs in over iSER."""

    def __init__(self, lab: Machine) -> None:
        self._lab = lab
        lab.run(_SETUP)

    def discover(self, target: Target) -> str:
        """What ``iscsiadm`` prints."""
        return self._lab.run(f"iscsiadm -m discovery -t st -p {target.portal} -I iser").out

    @contextmanager
    def disk(self, target: Target, settings: Mapping[str, str] = _NONE) -> Iterator[Disk]:
        """Log in, and log out in the end.  ``settings`` are of the node record."""
        self.login(target, settings)
        try:
            yield self.find_disk(target)
        finally:
            self.logout(target)

    def login(self, target: Target, settings: Mapping[str, str] = _NONE) -> None:
        """The record is made by hand: discovery tells the address on the far side of the NAT."""
        node = _node(target)
        lines = [f"iscsiadm {node} -o new -I iser"]
        lines += [f"iscsiadm {node} -o update -n '{name}' -v {value}" for name, value in settings.items()]
        self._lab.run("\n".join(["set -e", *lines, f"iscsiadm {node} --login"]))

    def logout(self, target: Target) -> None:
        """And forget the record."""
        self._lab.run(f"iscsiadm {_node(target)} --logout; iscsiadm {_node(target)} -o delete")

    def forget(self, target: Target) -> None:
        """Forget the record of a login that failed."""
        self._lab.run(f"iscsiadm {_node(target)} -o delete", check=False)

    def sessions(self) -> str:
        """What ``iscsiadm`` prints of the sessions; "" if there is none."""
        return self._lab.run("iscsiadm -m session -P 3", check=False).out

    def find_disk(self, target: Target) -> Disk:
        """The disk of a session; it comes a while after the login.  Raises LabError."""
        end = time.monotonic() + _DISK_SECONDS
        while time.monotonic() < end:
            text = _section(self.sessions(), target.name)
            found = re.search(r"Attached scsi disk (\w+)\s+State: running", text)
            if found:
                settings = dict(re.findall(r"^\s*(\w+): (\S+)\s*$", text, re.MULTILINE))
                return Disk(self._lab, f"/dev/{found[1]}", settings)
            time.sleep(0.3)
        raise LabError(f"no disk of {target.name} within {_DISK_SECONDS:g} seconds")


def _node(target: Target) -> str:
    return f"-m node -T {target.name} -p {target.portal}"


def _section(text: str, name: str) -> str:
    """What is said of one target."""
    return next((part for part in re.split(r"^Target: ", text, flags=re.MULTILINE) if part.startswith(name)), "")
