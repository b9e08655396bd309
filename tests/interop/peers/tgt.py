"""tgt, the target daemon of Debian, with its iSER driver."""

from __future__ import annotations

from typing import Final

from tests.interop.peers.base import TargetPeer
from tests.lab import Machine

__all__ = ["Tgt"]

#: Its TCP listener goes out of the way: on iWARP the iSER one is a TCP listener, too.
_START: Final = """
set -e
mkdir -p /run/tgt
[ -e /run/tgt/disk.img ] || truncate -s {size} /run/tgt/disk.img
tgtd --iscsi portal=127.0.0.1:3262 </dev/null >>/run/tgt/log 2>&1
for i in $(seq 100); do tgtadm --mode system --op show >/dev/null 2>&1 && break; sleep 0.1; done
tgtadm --lld iser --mode target --op new --tid 1 -T {name}
tgtadm --lld iser --mode logicalunit --op new --tid 1 --lun {lun} -b /run/tgt/disk.img
tgtadm --lld iser --mode target --op bind --tid 1 -I ALL
"""


class Tgt(TargetPeer):
    """A disk in a file in the guest's memory.  It listens on the default port; see ``test_tgt_port_option``."""

    name = "iqn.2026-11.lab:tgt"
    lun = 1  # LUN 0 is its controller
    port = 3260

    def __init__(self, lab: Machine) -> None:
        super().__init__(lab)
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"

    def start(self) -> None:
        """Start the daemon and give it the target."""
        self.lab.run(_START.format(size=self.size, name=self.name, lun=self.lun))

    async def kill(self) -> None:
        """SIGKILL."""
        await self.lab.arun("killall -9 tgtd; while pidof tgtd; do sleep 0.1; done", check=False)
