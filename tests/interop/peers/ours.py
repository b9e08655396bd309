"""Our target with one LUN, as most rows want it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.interop.peers.process import TargetProcess

__all__ = ["WORKER_NAMES", "WORKER_TABLES", "OurTarget"]

#: Two targets, for two workers: each must send the logins of the other's away.
WORKER_NAMES: Final = ("iqn.2026-11.lab:one", "iqn.2026-11.lab:two")
WORKER_TABLES: Final = "".join(
    f"""
[[target]]
name = "{name}"
[[target.lun]]
id = 0
backend = "memory"
size = "16M"
"""
    for name in WORKER_NAMES
)


class OurTarget(TargetProcess):
    """One target with one LUN.  ``lun`` and ``limits`` are lines of the configuration's tables of these names."""

    def __init__(self, folder: Path, name: str, lun: str, limits: str = "", scheme: str = "iser") -> None:
        tables = f'[limits]\n{limits}\n[[target]]\nname = "{name}"\n[[target.lun]]\nid = 0\n{lun}\n'
        super().__init__(folder, tables, (scheme,))
        self.name = name

    @property
    def portal(self) -> str:
        """As the guest reaches it."""
        return self.portal_of(0)

    @property
    def port(self) -> int:
        """The portal's port."""
        return self._ports[0]
