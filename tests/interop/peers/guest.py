"""Our target in the guest, over a device that the verbs provider drives."""

from __future__ import annotations

import shlex
import time
from typing import Final

from tests.interop.peers.base import TargetPeer
from tests.lab import Job, LabError, Machine
from tests.lab.build import PROJECT

__all__ = ["GUEST_IWARP", "GUEST_ROCE", "GuestTarget"]

#: Addresses of the guest's devices.
GUEST_IWARP: Final = "10.0.2.15"
GUEST_ROCE: Final = "192.168.77.1"
_START_SECONDS: Final = 60.0
_LIFE_SECONDS: Final = 3600.0
_CONFIG: Final = """
[portal.lab]
listen = "iser://{address}:{port}"
[rnic]
provider = "verbs"
[[target]]
name = "{name}"
[[target.lun]]
id = 0
backend = "memory"
size = {size}
"""


class GuestTarget(TargetPeer):
    """A disk in memory.  From this machine its portal is reached over siw only."""

    def __init__(self, lab: Machine, address: str, port: int) -> None:
        super().__init__(lab)
        self.name = f"iqn.2026-11.lab:verbs-{port}"
        self.inside = f"{address}:{port}"
        self.portal = f"127.0.0.1:{lab.forward(port)}" if address == GUEST_IWARP else self.inside
        self._log = f"/run/verbs-{port}.log"
        self._config = _CONFIG.format(address=address, port=port, name=self.name, size=self.size)
        self._file = f"/run/verbs-{port}"
        self._job: Job | None = None

    def start(self) -> None:
        """Serve.  Raises LabError when it does not come up."""
        command = f"exec {self.lab.build.python} -m target.cli serve {self._file}.toml >{self._log} 2>&1"
        script = (
            f"cat >{self._file}.toml <<'END'\n{self._config}\nEND\ncd {PROJECT}; echo $$ >{self._file}.pid; {command}"
        )
        self._job = self.lab.start(script, seconds=_LIFE_SECONDS)
        end = time.monotonic() + _START_SECONDS
        while not self.lab.run(f"grep -s ^listening {self._log}", check=False).out:
            if time.monotonic() > end or self._job.future.done():
                raise LabError(f"our target in the guest did not come up: {self.log.strip().splitlines()[-1:]}")
            time.sleep(0.5)

    @property
    def log(self) -> str:
        """What it said."""
        return self.lab.run(f"cat {shlex.quote(self._log)}", check=False).out

    async def kill(self) -> None:
        """SIGKILL."""
        await self.lab.arun(f"kill -9 $(cat {self._file}.pid); rm {self._log}")

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self.lab.run(f"kill $(cat {self._file}.pid)", check=False)
        if self._job:
            self._job.wait()
