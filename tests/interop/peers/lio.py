"""LIO, the kernel's target, with ib_isert."""

from __future__ import annotations

import itertools
from typing import Final

from tests.interop.peers.base import CHAP, MUTUAL, TargetPeer
from tests.interop.peers.slow import SLOW_PATH, SLOW_SCRIPT
from tests.lab import Machine

__all__ = ["Lio"]

_ROOT: Final = "/sys/kernel/config/target"

_GUARD_PORTS: Final = itertools.count(3400)
#: Defines ``make``: a target with LUN 0, all that a session of ours needs, at a port; the name and the port are given.
_MAKE: Final = """
set -e
lun={root}/core/{disk}
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
"""
_START: Final = """
{make_slow}
modprobe -a target_core_mod target_core_iblock iscsi_target_mod ib_isert
ip netns list | grep -q '^lio' || ip netns add lio
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
if [ ! -d {root}/iscsi/{name} ]; then
  make {name} {port}
  mkdir $target/lun/lun_1
  ln -s $slow $target/lun/lun_1/disk
fi
echo 1 >{root}/iscsi/{name}/tpgt_1/enable
"""
_GUARD: Final = """
make {name} {port}
echo 1 >$target/attrib/authentication
# What follows is taken with a newline, if there is one.
echo -n {user} >$target/auth/userid
echo -n {secret} >$target/auth/password
echo -n {target_user} >$target/auth/userid_mutual
echo -n {target_secret} >$target/auth/password_mutual
echo 1 >$target/enable
"""


class Lio(TargetPeer):
    """A disk in memory, on siw and rxe alike."""

    #: LIO up to 6.1.176 answers the login before the session is complete; a write right then may loop for ever.
    settle_seconds = 0.3
    must_prove_itself = True
    kill_seconds = 10.0
    cut_note = "with reads in flight only; see the faults of LIO"
    guarded_port: int

    def __init__(self, lab: Machine, name: str = "lio", port: int = 3264) -> None:
        super().__init__(lab)
        self.name = f"iqn.2026-11.lab:{name}"
        self.port = port
        self._disk = f"rd_mcp_0/{name}"
        self.portal = f"127.0.0.1:{lab.forward(self.port)}"

    @property
    def start_script(self) -> str:
        """Make the target, or enable it again."""
        start = _START.format(
            root=_ROOT, name=self.name, port=self.port, pages=self.size // 4096, make_slow=SLOW_SCRIPT, slow=SLOW_PATH,
        )  # fmt: skip
        return self._make + start

    @property
    def _make(self) -> str:
        return _MAKE.format(root=_ROOT, disk=self._disk)

    def guard(self) -> None:
        """Make the target that wants CHAP; each time another, as LIO never lets go of one whose login was broken off.

        Its name and portal are in ``guarded``.  Raises LabError.
        """
        (user, secret), (target_user, target_secret) = CHAP, MUTUAL
        self.guarded_port = next(_GUARD_PORTS)
        name = f"{self.name}.guarded-{self.guarded_port}"
        script = _GUARD.format(
            name=name, port=self.guarded_port, user=user, secret=secret, target_user=target_user,
            target_secret=target_secret,
        )  # fmt: skip
        self.lab.run(self._make + script)
        self.guarded = name, f"127.0.0.1:{self.lab.forward(self.guarded_port)}"

    @property
    def kill_script(self) -> str:
        """Disable the portal group, which drops its connections."""
        return f"echo 0 >{_ROOT}/iscsi/{self.name}/tpgt_1/enable"

    def set_parameter(self, key: str, value: str) -> str:
        """Set what the target negotiates from; the value before."""
        path = f"{_ROOT}/iscsi/{self.name}/tpgt_1/param/{key}"
        return self.lab.run(f"cat {path}; echo {value} >{path}").out.strip()
