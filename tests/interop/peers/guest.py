"""Our target in the guest, over a device that the verbs provider drives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from typing import Final, Self

from tests.interop.peers.base import CHAP, GUARD, MUTUAL, TargetPeer
from tests.interop.peers.slow import SLOW_SECONDS
from tests.lab import Machine
from tests.lab.build import PROJECT

__all__ = ["GUEST_IWARP", "GUEST_ROCE", "SECRETS", "GuestProcess", "GuestTarget", "our_tables"]

#: Addresses of the guest's devices.
GUEST_IWARP: Final = "10.0.2.15"
GUEST_ROCE: Final = "192.168.77.1"
_START_SECONDS: Final = 90.0
_TABLES: Final = """
[[target]]
name = "{name}"
[[target.lun]]
id = 0
backend = "memory"
size = {size}
[[target.lun]]
id = 1
backend = "memory"
size = {size}
faults = [{{ on = "read", action = "delay", count = 1000000, seconds = {slow} }}]
[[target]]
name = "{name}.guarded"
[[target.lun]]
id = 0
backend = "memory"
size = {size}
{guard}"""
#: What the tables' secrets are in.
SECRETS: Final = {"USER_SECRET": CHAP[1], "TARGET_SECRET": MUTUAL[1]}
_START: Final = """
cat >{file}.toml <<'END'
{config}
END
cd {project}
: >{file}.log
setsid env {secrets} {python} -m target.cli serve {file}.toml </dev/null >>{file}.log 2>&1 &
echo $! >{file}.pid
while ! grep -q ^listening {file}.log; do
  kill -0 $! 2>/dev/null || {{ tail -1 {file}.log >&2; exit 1; }}
  sleep 0.2
done
"""


def our_tables(name: str) -> str:
    """Of our target's configuration: a disk in memory and a slow one, and the first once more behind CHAP."""
    return _TABLES.format(name=name, size=TargetPeer.size, slow=SLOW_SECONDS, guard=GUARD)


class GuestProcess:
    """Our target as a process in the guest, with one portal on a device of its.

    ``tables`` is the rest of the configuration, ``keys`` what stands before the first table.
    """

    def __init__(
        self, lab: Machine, address: str, port: int, tables: str, keys: str = "", provider: str = "verbs"
    ) -> None:
        self.lab = lab
        self._inside = f"{address}:{port}"
        self._file = f"/run/verbs-{port}"
        portal = f'[portal.lab]\nlisten = "iser://{address}:{port}"\n[rnic]\nprovider = "{provider}"\n'
        self.start_script = _START.format(
            file=self._file, config=keys + portal + tables, project=PROJECT, python=lab.build.python,
            secrets=" ".join(f"{name}={value}" for name, value in SECRETS.items()),
        )  # fmt: skip
        self.kill_script = f"kill -9 $(cat {self._file}.pid)"

    def portal_of(self, number: int) -> str:
        """Where the guest reaches it; there is one only, number 0."""
        assert number == 0
        return self._inside

    @property
    def log(self) -> str:
        """What it said since it was started last."""
        return self.lab.run(f"cat {self._file}.log", check=False).out

    def start(self) -> None:
        """Serve, and wait until it does.  Raises LabError."""
        self.lab.run(self.start_script, seconds=_START_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.lab.run(self.kill_script)

    def signal(self, number: Signals) -> None:
        """Send a signal."""
        self.lab.run(f"kill -{number.value} $(cat {self._file}.pid)")

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self.lab.run(f"pid=$(cat {self._file}.pid); kill $pid; while kill -0 $pid; do sleep 0.1; done", check=False)

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Started, and stopped in the end."""
        self.start()
        try:
            yield self
        finally:
            self.stop()


class GuestTarget(TargetPeer):
    """With the disks that our initiator's rows use.  From this machine its portal is reached over siw only."""

    def __init__(self, lab: Machine, address: str, port: int) -> None:
        super().__init__(lab)
        self.name = f"iqn.2026-11.lab:verbs-{port}"
        self.process = GuestProcess(lab, address, port, our_tables(self.name))
        self.portal = f"127.0.0.1:{lab.forward(port)}" if address == GUEST_IWARP else self.process.portal_of(0)
        self.guarded = f"{self.name}.guarded", self.portal

    @property
    def start_script(self) -> str:
        """Serve, and wait until it does."""
        return self.process.start_script

    @property
    def kill_script(self) -> str:
        """SIGKILL."""
        return self.process.kill_script
