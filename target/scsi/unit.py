"""A logical unit: a backend, what it is called, and the limits it reports."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from iser.errors import BackendError, UsageError
from iser.scsi.codes import INTERNAL_FAILURE, READ_ERROR, WRITE_ERROR, SenseCode
from iser.scsi.const import Status
from iser.scsi.sense import build_sense
from target.backends.base import Backend
from target.scsi.plan import Done

__all__ = ["BLOCK_SIZES", "DEFAULT_MAX_TRANSFER", "Identity", "LogicalUnit", "complete_error"]

BLOCK_SIZES: Final = (512, 4096)
#: Most bytes that one command may move, unless configured; reported in the Block Limits page.
DEFAULT_MAX_TRANSFER: Final = 8 << 20

_NAA_LOCAL = 0x3 << 60


@dataclass(frozen=True, slots=True)
class Identity:
    """What a logical unit says it is: ASCII, at most ``vendor`` 8, ``product`` 16, ``revision`` 4 bytes.

    ``naa`` is the 64-bit locally assigned name.  ``port`` is the iSCSI name of the target.  Two units must not share a
    serial or a ``naa``: initiators take them for two paths to one disk.
    """

    serial: str
    naa: int
    port: str
    vendor: str = "ISER-PY"
    product: str = "VIRTUAL DISK"
    revision: str = "0100"

    @classmethod
    def derive(cls, target: str, lun: int, serial: str | None = None, product: str = "VIRTUAL DISK") -> Identity:
        """A stable identity for LUN ``lun`` of the target named ``target``; a given ``serial`` decides all of it."""
        seed = serial if serial is not None else f"{target},{lun}"
        digest = hashlib.sha256(seed.encode()).digest()
        naa = _NAA_LOCAL | int.from_bytes(digest[:8], "big") >> 4
        return cls(serial if serial is not None else digest[:8].hex(), naa, target, product=product)


class LogicalUnit:
    """One logical unit.

    ``shift`` is log2 of the block size, ``max_blocks`` the most blocks of one command.  ``descriptor_sense`` is the
    D_SENSE bit: it chooses the format of all sense data.  Raises UsageError for a block size other than 512 and 4096.
    """

    __slots__ = ("backend", "blocks", "descriptor_sense", "identity", "max_blocks", "read_only", "shift")

    def __init__(
        self,
        backend: Backend,
        identity: Identity,
        *,
        max_transfer: int = DEFAULT_MAX_TRANSFER,
        descriptor_sense: bool = False,
    ) -> None:
        if backend.block_size not in BLOCK_SIZES:
            raise UsageError(f"{backend.name}: block size {backend.block_size} is not supported; use 512 or 4096")
        self.backend = backend
        self.identity = identity
        self.shift = backend.block_size.bit_length() - 1
        self.blocks = backend.blocks
        self.read_only = backend.read_only
        self.max_blocks = max(1, max_transfer >> self.shift)
        self.descriptor_sense = descriptor_sense

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""
        return 1 << self.shift

    def check(self, code: SenseCode, *, field: int | None = None, information: int | None = None) -> Done:
        """CHECK CONDITION with ``code``; ``field`` is the CDB byte at fault."""
        sense = build_sense(code, field=field, information=information, descriptor=self.descriptor_sense)
        return Done(Status.CHECK_CONDITION, sense)

    def complete_error(self, error: BackendError, write: bool) -> Done:
        """How a command ends whose media access failed with ``error``."""
        return complete_error(error, write, descriptor=self.descriptor_sense)


def complete_error(error: BackendError, write: bool, *, descriptor: bool = False) -> Done:
    """CHECK CONDITION for a failed backend.

    A fault of the medium, and a full one, is MEDIUM ERROR with WRITE ERROR or UNRECOVERED READ ERROR; any other is
    HARDWARE ERROR, INTERNAL TARGET FAILURE.
    """
    medium = WRITE_ERROR if write else READ_ERROR
    code = medium if error.medium else INTERNAL_FAILURE
    return Done(Status.CHECK_CONDITION, build_sense(code, descriptor=descriptor))
