"""How far a SANITIZE operation has come."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sanitizing"]


@dataclass(slots=True)
class Sanitizing:
    """``done`` of ``total`` bytes; ``unrestricted`` is the AUSE bit: a failure may be left by EXIT FAILURE MODE."""

    total: int
    done: int = 0
    failed: bool = False
    unrestricted: bool = False

    @property
    def progress(self) -> int:
        """Of 65536, as sense data has it."""
        return self.done * 65536 // self.total
