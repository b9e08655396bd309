"""Our target with one LUN, as most rows want it."""

from __future__ import annotations

from pathlib import Path

from tests.interop.peers.process import TargetProcess

__all__ = ["OurTarget"]


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
