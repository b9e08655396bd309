"""A logical unit: a backend, what it is called, the limits it reports, and the state that commands put it into."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iser.errors import BackendError, UsageError
from iser.scsi.codes import (
    CAPACITY_CHANGED,
    INTERNAL_FAILURE,
    READ_ERROR,
    SOFTWARE_WRITE_PROTECTED,
    SPACE_ALLOCATION_FAILED,
    WRITE_ERROR,
    WRITE_PROTECTED,
    SenseCode,
)
from iser.scsi.const import Status
from iser.scsi.sense import build_sense
from target.backends.base import Backend, BackendCap
from target.scsi.copystate import CopyResults
from target.scsi.plan import Done
from target.scsi.reservations import Persistent
from target.scsi.sanitizing import Sanitizing
from target.scsi.store import ReservationStore

if TYPE_CHECKING:
    from target.scsi.nexus import Nexus
    from target.scsi.taskset import Command, TaskSet

__all__ = [
    "BLOCK_SIZES",
    "DEFAULT_MAX_TRANSFER",
    "MAX_ATOMIC",
    "Identity",
    "LogicalUnit",
    "UnitOptions",
]

BLOCK_SIZES: Final = (512, 4096)
#: Most bytes that one command may move, unless configured; reported in the Block Limits page.
DEFAULT_MAX_TRANSFER: Final = 8 << 20
#: Most bytes of one WRITE ATOMIC, which are in memory twice for a moment; reported in the Block Limits page.
MAX_ATOMIC: Final = 16 << 20

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


@dataclass(frozen=True, slots=True)
class UnitOptions:
    """What kind of disk a logical unit is.

    ``removable``: its medium can be ejected.  ``thin``: blocks can be unmapped, which the backend must be able to do.
    ``physical_block`` is bytes, and no less than a logical block.  ``reservations`` keeps persistent reservations
    through a loss of power.  ``descriptor_sense`` is the default of the D_SENSE bit.
    """

    max_transfer: int = DEFAULT_MAX_TRANSFER
    descriptor_sense: bool = False
    removable: bool = False
    thin: bool = False
    physical_block: int = 0
    reservations: ReservationStore | None = None


class LogicalUnit:
    """One logical unit.

    ``shift`` is log2 of the block size, ``max_blocks`` the most blocks of one command.  ``descriptor_sense`` is the
    D_SENSE bit: it chooses the format of all sense data.  ``gated`` is set while a command has to be looked at before
    it may start: see :mod:`target.scsi.gate` and :mod:`target.scsi.taskset`.  ``neighbours``, ``abort_tasks`` and
    ``running``, the commands on the unit that have not ended, are set by the device that it belongs to, as are
    ``ports``, the relative identifiers of the target ports that it is reached by.

    Raises UsageError for options that cannot be.
    """

    __slots__ = (
        "abort_tasks",
        "backend",
        "background",
        "blocks",
        "copies",
        "descriptor_sense",
        "ejected",
        "gated",
        "identity",
        "max_blocks",
        "neighbours",
        "nexuses",
        "options",
        "persistent",
        "ports",
        "preventing",
        "read_only",
        "reservation_lock",
        "reserved_by",
        "running",
        "sanitizing",
        "shift",
        "software_protect",
        "task_set",
        "write_through",
    )

    def __init__(
        self,
        backend: Backend,
        identity: Identity,
        options: UnitOptions | None = None,
        *,
        max_transfer: int = DEFAULT_MAX_TRANSFER,
        descriptor_sense: bool = False,
    ) -> None:
        if backend.block_size not in BLOCK_SIZES:
            raise UsageError(f"{backend.name}: block size {backend.block_size} is not supported; use 512 or 4096")
        self.options = options or UnitOptions(max_transfer, descriptor_sense)
        _check_options(backend, self.options)
        self.backend = backend
        self.identity = identity
        self.shift = backend.block_size.bit_length() - 1
        self.blocks = backend.blocks
        self.max_blocks = max(1, self.options.max_transfer >> self.shift)
        self.nexuses: set[Nexus] = set()
        self.ports: Sequence[int] = (1,)
        self.neighbours: Callable[[], Iterable[LogicalUnit]] = lambda: (self,)
        self.abort_tasks: Callable[[LogicalUnit, Sequence[Nexus]], Awaitable[None]] | None = None
        self.running: Callable[[], Iterable[Command]] = tuple
        self.task_set: TaskSet | None = None
        self.preventing: set[Nexus] = set()
        self.ejected = False
        self.reserved_by: Nexus | None = None
        store = self.options.reservations
        self.persistent: Persistent = store.load() if store else Persistent()
        self.reservation_lock = asyncio.Lock()
        self.sanitizing: Sanitizing | None = None
        self.background: set[asyncio.Task[None]] = set()
        self.copies = CopyResults()
        self.reset_parameters()
        self.update_gate()

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""
        return 1 << self.shift

    @property
    def physical_exponent(self) -> int:
        """log2 of the logical blocks in a physical one."""
        return max(self.options.physical_block.bit_length() - 1 - self.shift, 0)

    @property
    def thin(self) -> bool:
        """Whether blocks can be unmapped."""
        return self.options.thin

    @property
    def max_atomic_blocks(self) -> int:
        """The most blocks of one WRITE ATOMIC."""
        return min(self.max_blocks, MAX_ATOMIC >> self.shift, 0xFFFF)

    @property
    def protection(self) -> SenseCode | None:
        """Why the unit cannot be written, if it cannot."""
        if self.backend.read_only:
            return WRITE_PROTECTED
        return SOFTWARE_WRITE_PROTECTED if self.software_protect else None

    def reset_parameters(self) -> None:
        """Mode parameters have their defaults."""
        self.descriptor_sense = self.options.descriptor_sense
        self.write_through = False
        self.set_protection(False)

    def set_protection(self, protect: bool) -> None:
        """Set the SWP bit."""
        self.software_protect = protect
        self.read_only = protect or self.backend.read_only

    def update_gate(self) -> None:
        """To be called after each change of what :mod:`target.scsi.gate` looks at, and of ``task_set``."""
        self.gated = (
            self.ejected
            or self.sanitizing is not None
            or self.reserved_by is not None
            or self.persistent.reservation is not None
            or self.task_set is not None
        )

    def reset(self) -> None:
        """The logical unit was reset: what does not outlive that is gone (SAM-5 6.3.3)."""
        self.preventing.clear()
        self.reserved_by = None
        self.copies.clear()
        self.reset_parameters()
        self.update_gate()

    def forget(self, nexus: Nexus) -> None:
        """An I_T nexus was lost, and with it what it held."""
        self.nexuses.discard(nexus)
        self.preventing.discard(nexus)
        self.copies.forget(nexus.id)
        if self.reserved_by is nexus:
            self.reserved_by = None
            self.update_gate()

    def attention(self, code: SenseCode, *, but: Nexus | None = None, among: Iterable[str] | None = None) -> None:
        """Tell ``code`` to every nexus, or to those whose names are ``among``; never to ``but``."""
        names = None if among is None else set(among)
        for nexus in self.nexuses:
            if nexus is not but and (names is None or nexus.id in names):
                nexus.raise_attention(self, code)

    async def resize(self, size: int | None = None) -> None:
        """Resize the backend to ``size`` bytes, or take over what it has become, and tell every initiator.

        Raises BackendError or UsageError.
        """
        before = self.blocks
        if size and size > 0 and not size % self.block_size:
            self.blocks = min(before, size >> self.shift)  # no command begins on what is being cut off
        try:
            await self.backend.resize(size)
        finally:
            self.blocks = self.backend.blocks
        if self.blocks != before:
            self.attention(CAPACITY_CHANGED)

    async def close(self) -> None:
        """End what runs in the background and close the backend.  Raises BackendError."""
        for task in self.background:
            task.cancel()
        if self.background:
            await asyncio.wait(self.background)
        await self.backend.close()

    def check(
        self,
        code: SenseCode,
        *,
        field: int | None = None,
        parameter: int | None = None,
        information: int | None = None,
    ) -> Done:
        """CHECK CONDITION with ``code``; ``field`` is the CDB byte at fault, ``parameter`` that of the data-out."""
        sense = build_sense(
            code, field=field, parameter=parameter, information=information, descriptor=self.descriptor_sense
        )
        return Done(Status.CHECK_CONDITION, sense)

    def complete_error(self, error: BackendError, write: bool) -> Done:
        """CHECK CONDITION for a failed backend.

        A fault of the medium is MEDIUM ERROR with WRITE ERROR or UNRECOVERED READ ERROR, and with the LBA where it is
        known; so is a full store, unless the unit is thin, whose initiators know what SPACE ALLOCATION FAILED means
        (SBC-3 4.7.3.6).  Any other fault is HARDWARE ERROR, INTERNAL TARGET FAILURE.
        """
        if not error.medium:
            return self.check(INTERNAL_FAILURE)
        if write and error.space and self.thin:
            return self.check(SPACE_ALLOCATION_FAILED)
        lba = None if error.offset is None else error.offset >> self.shift
        return self.check(WRITE_ERROR if write else READ_ERROR, information=lba)


def _check_options(backend: Backend, options: UnitOptions) -> None:
    physical = options.physical_block
    if physical and (physical < backend.block_size or physical & physical - 1):
        raise UsageError(f"{backend.name}: physical block size {physical} is no power of two from its block size on")
    if options.thin and not backend.capabilities & BackendCap.DISCARD:
        raise UsageError(f"{backend.name} cannot give space back, so it cannot be thin; leave thin out")
