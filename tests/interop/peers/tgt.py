"""tgt, the target daemon of Debian, with its iSER driver."""

from __future__ import annotations

from typing import Final

from tests.interop.peers.base import TargetPeer
from tests.lab import Machine

__all__ = ["INITIATORS", "Tgt"]

#: Who may log in.  Over iSER, tgt 1.0.85 wants the address and the name on its lists, where over TCP one is enough.
INITIATORS: Final = ("iqn.2026-11.lab:ours", "iqn.2026-11.lab:kernel", "iqn.2026-11.lab:libiscsi")

#: Its TCP listener goes out of the way: on iWARP the iSER one is a TCP listener, too.
_START: Final = """
set -e
mkdir -p /run/tgt
[ -e /run/tgt/disk.img ] || truncate -s {size} /run/tgt/disk.img
setsid tgtd -f --iscsi portal=127.0.0.1:3262 </dev/null >>/run/tgt/log 2>&1 &
for i in $(seq 100); do tgtadm --mode system --op show >/dev/null 2>&1 && break; sleep 0.1; done
tgtadm --lld iser --mode target --op new --tid 1 -T {name}
tgtadm --lld iser --mode logicalunit --op new --tid 1 --lun {lun} -b /run/tgt/disk.img
tgtadm --lld iser --mode target --op bind --tid 1 -I ALL
for name in {initiators}; do tgtadm --lld iser --mode target --op bind --tid 1 -Q $name; done
"""


class Tgt(TargetPeer):
    """A disk in a file in the guest's memory.  It listens on the default port; see ``test_tgt_port_option``."""

    name = "iqn.2026-11.lab:tgt"
    lun = 1  # LUN 0 is its controller
    port = 3260
    #: tgt takes commands once it has seen that its last login response is out, and closes the connection on one before.
    settle_seconds = 0.2

    def __init__(self, lab: Machine) -> None:
        super().__init__(lab)
        # With the first connection tgt registers its buffer pool, which takes long when emulated.
        self.options = {"initiator_name": INITIATORS[0], "login_timeout": 60.0}
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"

    def start(self) -> None:
        """Start the daemon and give it the target."""
        self.lab.run(_START.format(size=self.size, name=self.name, lun=self.lun, initiators=" ".join(INITIATORS)))

    async def kill(self) -> None:
        """SIGKILL."""
        await self.lab.arun("killall -9 tgtd; while pidof tgtd; do sleep 0.1; done", check=False)
