"""LIO, the kernel's target, with ib_isert."""

from __future__ import annotations

from typing import Final

from tests.interop.peers.base import TargetPeer
from tests.lab import Machine

__all__ = ["Lio"]

_ROOT: Final = "/sys/kernel/config/target"

_KILL_SECONDS: Final = 10.0

_START: Final = """
set -e
modprobe -a target_core_mod iscsi_target_mod ib_isert
ip netns list | grep -q '^lio' || ip netns add lio
lun={root}/core/{disk}
target={root}/iscsi/{name}/tpgt_1
if [ ! -d $lun ]; then
  mkdir -p $lun
  echo rd_pages={pages} >$lun/control
  echo 1 >$lun/enable
fi
if [ ! -d $target ]; then
  mkdir -p {root}/iscsi/{name}/tpgt_1/lun/lun_0
  ln -s $lun $target/lun/lun_0/disk
  # A new portal is a TCP one first, in the network namespace of who makes it, and its RDMA listener is always in the
  # initial one.  On iWARP both are TCP listeners, so make it elsewhere and they do not collide.
  nsenter --net=/run/netns/lio mkdir $target/np/0.0.0.0:{port}
  echo 1 >$target/np/0.0.0.0:{port}/iser
  for attribute in authentication=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_write_protect=0; do
    echo ${{attribute#*=}} >$target/attrib/${{attribute%=*}}
  done
fi
echo 1 >$target/enable
"""


class Lio(TargetPeer):
    """A disk in memory, on siw and rxe alike."""

    #: LIO up to 6.1.176 answers the login before the session is complete; a write right then may loop for ever.
    settle_seconds = 0.5
    cut_note = "with reads in flight only; see the faults of LIO"

    def __init__(self, lab: Machine, name: str = "lio", port: int = 3261) -> None:
        super().__init__(lab)
        self.name = f"iqn.2026-11.lab:{name}"
        self.port = port
        self._disk = f"rd_mcp_0/{name}"
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"

    def start(self) -> None:
        """Make the target, or enable it again."""
        pages = self.size // 4096
        self.lab.run(_START.format(root=_ROOT, name=self.name, port=self.port, pages=pages, disk=self._disk))

    async def kill(self) -> None:
        """Disable the portal group, which drops its connections."""
        await self.lab.arun(f"echo 0 >{_ROOT}/iscsi/{self.name}/tpgt_1/enable", seconds=_KILL_SECONDS)

    def set_parameter(self, key: str, value: str) -> str:
        """Set what the target negotiates from; the value before."""
        path = f"{_ROOT}/iscsi/{self.name}/tpgt_1/param/{key}"
        return self.lab.run(f"cat {path}; echo {value} >{path}").out.strip()
