"""Runs in the guest: ``python -m tests.interop.guest_reset DEVICE device|target``, a reset through the SCSI layer."""

from __future__ import annotations

import fcntl
import struct
import sys
from typing import Final

__all__ = ["main"]

_SG_SCSI_RESET: Final = 0x2284  # <scsi/scsi_ioctl.h>
_KINDS: Final = {"device": 1, "target": 4}
_NO_ESCALATE: Final = 0x100


def main(device: str, kind: str) -> None:
    """Raises OSError if the reset fails."""
    with open(device, "rb", buffering=0) as disk:
        fcntl.ioctl(disk, _SG_SCSI_RESET, struct.pack("i", _KINDS[kind] | _NO_ESCALATE))


if __name__ == "__main__":
    main(*sys.argv[1:])
