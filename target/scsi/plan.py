"""What goes into a device server and what comes out: tasks and plans.

A session makes a :class:`ScsiTask`, hands it to :meth:`target.scsi.device.TargetDevice.start` and carries out the plan
that comes back.  Nothing here knows of PDUs or transports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iser.scsi.const import Status

if TYPE_CHECKING:
    from target.scsi.nexus import Nexus
    from target.scsi.unit import LogicalUnit

__all__ = ["GOOD", "Async", "Done", "Ordered", "Plan", "ReadMedia", "ScsiTask", "WriteMedia"]


@dataclass(slots=True)
class ScsiTask:
    """One SCSI command.

    ``lun`` is the 64-bit LUN field as it came over the wire, ``cdb`` the whole CDB including what an extended-CDB AHS
    added, ``attr`` the task attribute, ``edtl`` the expected data transfer length in bytes.  ``data_out`` is filled in
    by the session before it runs an :class:`Async` plan that asks for it.  ``aborted`` is set when nobody waits for the
    answer any more; a plan that runs for long looks at it.
    """

    lun: int
    cdb: bytes
    itt: int
    attr: int
    edtl: int
    nexus: Nexus
    data_out: bytes | memoryview = b""
    aborted: bool = False


@dataclass(slots=True)
class Done:
    """The command has ended.  ``data_in`` is cut to the CDB's allocation length; cutting to EDTL is the session's."""

    status: int = Status.GOOD
    sense: bytes = b""
    data_in: bytes = b""


@dataclass(slots=True)
class ReadMedia:
    """Move ``length`` bytes at byte ``offset`` of ``lu.backend`` to the initiator, then answer GOOD."""

    lu: LogicalUnit
    offset: int
    length: int


@dataclass(slots=True)
class WriteMedia:
    """Move ``length`` bytes from the initiator to byte ``offset`` of ``lu.backend``, then answer GOOD."""

    lu: LogicalUnit
    offset: int
    length: int
    fua: bool


@dataclass(slots=True)
class Async:
    """Await ``run()`` for the :class:`Done`, after ``data_out_length`` bytes were put into ``task.data_out``.

    ``run`` may be dropped without being called, and cancelled when it runs.
    """

    run: Callable[[], Awaitable[Done]]
    data_out_length: int = 0


@dataclass(slots=True)
class Ordered:
    """The command minds others: it enters the task set of ``lu``.

    When that lets it begin, :meth:`target.scsi.device.TargetDevice.begin` says how to carry it out.
    """

    lu: LogicalUnit


Plan = Done | ReadMedia | WriteMedia | Async | Ordered

#: The plain answer.  Shared, so nobody may change it.
GOOD = Done()
