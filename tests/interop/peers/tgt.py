"""tgt, the target daemon of Debian, with its iSER driver."""

from __future__ import annotations

from typing import Final

from tests.interop.peers.base import CHAP, MUTUAL, TargetPeer
from tests.interop.peers.slow import SLOW_PATH, SLOW_SCRIPT
from tests.lab import Machine

__all__ = ["INITIATORS", "Tgt"]

#: Who may log in.  Over iSER, tgt 1.0.85 wants the address and the name on its lists, where over TCP one is enough.
INITIATORS: Final = ("iqn.2026-11.lab:ours", "iqn.2026-11.lab:kernel", "iqn.2026-11.lab:libiscsi")

#: Its TCP listener goes out of the way: on iWARP the iSER one is a TCP listener, too.
_START: Final = """
set -e
{make_slow}
mkdir -p /run/tgt
[ -e /run/tgt/disk.img ] || truncate -s {size} /run/tgt/disk.img
# Its pool of 1 GiB unless told otherwise takes a minute to register when emulated.
setsid tgtd -f --iscsi portal=127.0.0.1:3262 --iser pool_sz_mb=256 </dev/null >>/run/tgt/log 2>&1 &
for i in $(seq 100); do tgtadm --mode system --op show >/dev/null 2>&1 && break; sleep 0.1; done
tgtadm --lld iser --mode target --op new --tid 1 -T {name}
tgtadm --lld iser --mode logicalunit --op new --tid 1 --lun {lun} -b /run/tgt/disk.img
tgtadm --lld iser --mode target --op bind --tid 1 -I ALL
tgtadm --lld iser --mode logicalunit --op new --tid 1 --lun {slow_lun} -b {slow}
tgtadm --lld iser --mode target --op new --tid 2 -T {name}.guarded
tgtadm --lld iser --mode logicalunit --op new --tid 2 --lun {lun} -b /run/tgt/disk.img
tgtadm --lld iser --mode target --op bind --tid 2 -I ALL
for name in {initiators}; do
  for tid in 1 2; do tgtadm --lld iser --mode target --op bind --tid $tid -Q $name; done
done
tgtadm --lld iser --mode account --op new --user {user} --password {secret}
tgtadm --lld iser --mode account --op bind --tid 2 --user {user}
tgtadm --lld iser --mode account --op new --user {target_user} --password {target_secret}
tgtadm --lld iser --mode account --op bind --tid 2 --user {target_user} --outgoing
"""


class Tgt(TargetPeer):
    """A disk in a file in the guest's memory.  It listens on the default port; see ``test_tgt_port_option``."""

    name = "iqn.2026-11.lab:tgt"
    #: A request that comes before tgt has seen that its last response is out finds no receive, and is lost.
    login_tries = 4
    lun = 1  # LUN 0 is its controller
    slow_lun = 2
    spares_commands = "it lets commands that run end, and answers then"
    port = 3260
    #: tgt takes commands once it has seen that its last login response is out, and closes the connection on one before.
    settle_seconds = missing_seconds = 0.2

    def __init__(self, lab: Machine) -> None:
        super().__init__(lab)
        # With the first connection tgt registers its buffer pool, which takes long when emulated.
        self.options = {"initiator_name": INITIATORS[0], "login_timeout": 60.0}
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"
        self.guarded = f"{self.name}.guarded", self.portal

    @property
    def start_script(self) -> str:
        """Start the daemon and give it the targets."""
        (user, secret), (target_user, target_secret) = CHAP, MUTUAL
        return _START.format(
            size=self.size, name=self.name, lun=self.lun, slow_lun=self.slow_lun, make_slow=SLOW_SCRIPT,
            slow=SLOW_PATH, user=user, secret=secret, target_user=target_user, target_secret=target_secret,
            initiators=" ".join(INITIATORS),
        )  # fmt: skip

    @property
    def kill_script(self) -> str:
        """SIGKILL."""
        return "killall -9 tgtd; while pidof tgtd; do sleep 0.1; done"

    def restart(self) -> None:
        """A new daemon: the old one may have been left with commands that it never forgets."""
        self.lab.run(self.kill_script, check=False)
        self.start()
