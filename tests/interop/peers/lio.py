"""LIO, the kernel's target, with ib_isert."""

from __future__ import annotations

from typing import Final

from tests.interop.peers.base import CHAP, MUTUAL, TargetPeer
from tests.interop.peers.slow import SLOW_PATH, SLOW_SCRIPT
from tests.lab import Machine

__all__ = ["Lio"]

_ROOT: Final = "/sys/kernel/config/target"

_START: Final = """
set -e
{make_slow}
modprobe -a target_core_mod target_core_iblock iscsi_target_mod ib_isert
ip netns list | grep -q '^lio' || ip netns add lio
lun={root}/core/{disk}
if [ ! -d $lun ]; then
  mkdir -p $lun
  echo rd_pages={pages} >$lun/control
  echo 1 >$lun/enable
fi
slow={root}/core/iblock_0/slow
if [ ! -d $slow ]; then
  mkdir -p $slow
  echo udev_path={slow} >$slow/control
  echo 1 >$slow/enable
fi
# Makes a target with LUN 0, all that a session of ours needs, at a port; the name and the port are given.
make() {{
  target={root}/iscsi/$1/tpgt_1
  mkdir -p $target/lun/lun_0
  ln -s $lun $target/lun/lun_0/disk
  # A new portal is a TCP one first, in the network namespace of who makes it, and its RDMA listener is always in the
  # initial one.  On iWARP both are TCP listeners, so make it elsewhere and they do not collide.
  nsenter --net=/run/netns/lio mkdir $target/np/0.0.0.0:$2
  echo 1 >$target/np/0.0.0.0:$2/iser
  for attribute in authentication=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_write_protect=0; do
    echo ${{attribute#*=}} >$target/attrib/${{attribute%=*}}
  done
}}
if [ ! -d {root}/iscsi/{name} ]; then
  make {name} {port}
  mkdir $target/lun/lun_1
  ln -s $slow $target/lun/lun_1/disk
fi
echo 1 >{root}/iscsi/{name}/tpgt_1/enable
if [ ! -d {root}/iscsi/{name}.guarded ]; then
  make {name}.guarded {guarded}
  echo 1 >$target/attrib/authentication # what follows is taken with a newline, if there is one
  echo -n {user} >$target/auth/userid
  echo -n {secret} >$target/auth/password
  echo -n {target_user} >$target/auth/userid_mutual
  echo -n {target_secret} >$target/auth/password_mutual
  echo 1 >$target/enable
fi
"""


class Lio(TargetPeer):
    """A disk in memory, on siw and rxe alike."""

    #: LIO up to 6.1.176 answers the login before the session is complete; a write right then may loop for ever.
    settle_seconds = 0.5
    must_prove_itself = True
    #: A portal takes one login at a time, and gives one that got stuck 15 seconds.
    login_tries = 2
    kill_seconds = 10.0
    cut_note = "with reads in flight only; see the faults of LIO"

    def __init__(self, lab: Machine, name: str = "lio", port: int = 3264) -> None:
        super().__init__(lab)
        self.name = f"iqn.2026-11.lab:{name}"
        self.port = port
        self._disk = f"rd_mcp_0/{name}"
        self.guarded_port = port + 1
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"
        self.guarded = f"{self.name}.guarded", f"127.0.0.1:{lab.forward(self.guarded_port)}"

    @property
    def start_script(self) -> str:
        """Make the targets, or enable the first again."""
        (user, secret), (target_user, target_secret) = CHAP, MUTUAL
        return _START.format(
            root=_ROOT, name=self.name, port=self.port, guarded=self.guarded_port, pages=self.size // 4096,
            disk=self._disk, make_slow=SLOW_SCRIPT, slow=SLOW_PATH, user=user, secret=secret,
            target_user=target_user, target_secret=target_secret,
        )  # fmt: skip

    @property
    def kill_script(self) -> str:
        """Disable the portal group, which drops its connections."""
        return f"echo 0 >{_ROOT}/iscsi/{self.name}/tpgt_1/enable"

    def set_parameter(self, key: str, value: str) -> str:
        """Set what the target negotiates from; the value before."""
        path = f"{_ROOT}/iscsi/{self.name}/tpgt_1/param/{key}"
        return self.lab.run(f"cat {path}; echo {value} >{path}").out.strip()
