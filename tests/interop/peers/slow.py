"""A disk in the guest that takes its time, so that task management finds commands that run."""

from __future__ import annotations

from typing import Final

__all__ = ["SLOW_PATH", "SLOW_SCRIPT", "SLOW_SECONDS"]

#: What each read and each write of it takes.
SLOW_SECONDS: Final = 2.0
SLOW_PATH: Final = "/dev/nullb0"
#: Makes it: the kernel's null_blk, which answers by a timer.
SLOW_SCRIPT: Final = (
    f"[ -b {SLOW_PATH} ] || modprobe null_blk nr_devices=1 gb=1 irqmode=2 completion_nsec={int(SLOW_SECONDS * 1e9)}"
)
