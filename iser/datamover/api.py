"""The Datamover Architecture's primitives (RFC 5047 sections 8 and 9).

They are how the iSCSI layer asks for control PDUs and data to be moved, whatever moves them.

Down-calls are methods of :class:`Datamover` and its two roles; up-calls are :class:`DatamoverUser` and
:class:`TargetDatamoverUser`.  Names are the RFC's in Python's spelling.  A task is named by its ITT.  At error recovery
level 0 there is no acknowledgement of data, hence no ``data_ack_notify``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from iser.errors import IserError, PduError
from iser.login import NegotiatedParameters
from iser.pdu import Pdu
from iser.pdu.layout import ReadBuffer
from iser.sg import SgList

__all__ = [
    "Datamover",
    "DatamoverState",
    "DatamoverUser",
    "InitiatorDatamover",
    "QuickCommands",
    "QuickEnd",
    "QuickPath",
    "QuickStart",
    "TargetDatamover",
    "TargetDatamoverUser",
    "TaskBuffers",
]


class DatamoverState(Enum):
    """Life of a datamover: login PDUs only, resources allocated, full-feature phase, over."""

    LOGIN = "login"
    ALLOCATED = "allocated"
    ENABLED = "enabled"
    CLOSED = "closed"


class DatamoverUser(Protocol):
    """The iSCSI layer, as the datamover calls it; always from the event loop."""

    def control_notify(self, pdu: Pdu) -> None:
        """A control PDU arrived; ``pdu.data`` is valid during the call only.

        The tags of a task are already invalidated when its SCSI Response is handed up.  A RemoteProtocolError raised
        here ends the connection.
        """

    def malformed_notify(self, error: PduError, bhs: bytes) -> None:
        """A message arrived that is no legal PDU; ``bhs`` is its first 48 bytes or as many as there were."""

    def connection_terminate_notify(self, reason: IserError | None) -> None:
        """The connection ended, every task's resources are free.  Not called after ``connection_terminate``."""


class TargetDatamoverUser(DatamoverUser, Protocol):
    """The target's iSCSI layer."""

    def data_completion_notify(self, itt: int, sn: int) -> None:
        """A ``get_data`` (``sn`` is its R2TSN) or a ``put_data`` with ``notify`` (its DataSN) is complete."""

    def data_failed_notify(self, itt: int, sn: int, error: PduError) -> None:
        """The data for a ``get_data`` came out of step: it is over, and the task has to be ended with a status."""


@dataclass(slots=True)
class TaskBuffers:
    """Data descriptors of a SCSI command.

    The first ``immediate_data_size`` bytes of ``data_out`` travel with the command; the STag of the rest counts from
    byte ``unsolicited_data_size`` on, which is no less.
    """

    data_in: SgList | None = None
    data_out: SgList | None = None
    immediate_data_size: int = 0
    unsolicited_data_size: int = 0


class Datamover(ABC):
    """What both roles share.  A call that the state forbids raises LocalProtocolError."""

    state: DatamoverState
    #: Names the connection in log lines.
    name: str

    @abstractmethod
    def notice_key_values(self, params: NegotiatedParameters) -> None:
        """Take the negotiated keys, before ``enable_datamover``.

        An initiator has them only after it allocated its resources: it must be able to receive before it asks for the
        full-feature phase.
        """

    def renew_key_values(self, params: NegotiatedParameters) -> None:  # noqa: B027 - nothing to do is one answer
        """Take keys that the peer declared anew in the full-feature phase.  Over iSER none of these counts."""

    @abstractmethod
    def allocate_connection_resources(self, queue_depth: int) -> None:
        """Make ready for ``queue_depth`` tasks at once, before the final login PDU is sent.  Idempotent."""

    @abstractmethod
    def deallocate_connection_resources(self) -> None:
        """Undo it when the login fails after all."""

    @abstractmethod
    def enable_datamover(self) -> None:
        """Enter the full-feature phase."""

    @abstractmethod
    def send_control(self, pdu: Pdu) -> None:
        """Send a control PDU.  The length fields of its BHS are filled in."""

    @abstractmethod
    def deallocate_task_resources(self, itt: int) -> None:
        """A task ended without a SCSI Response: forget, and invalidate, its tags.

        A transfer that may never end otherwise, as over TCP, is over with it: ``data_completion_notify`` may be called
        before this returns.
        """

    @abstractmethod
    def connection_terminate(self) -> None:
        """End the connection once what is queued has gone out; on return the iSCSI layer owns the tasks' buffers."""

    @abstractmethod
    def abort(self, reason: IserError) -> None:
        """End the connection at once; ``connection_terminate_notify`` follows with ``reason``."""

    @abstractmethod
    async def close(self) -> None:
        """Terminate if need be and wait until all is freed.  Idempotent."""


#: Ends the task of an ITT whose response was GOOD with nothing to say, with its StatSN and MaxCmdSN.
QuickEnd = Callable[[int, int, int], None]


class QuickCommands(Protocol):
    """What an initiator's datamover may offer besides its primitives: plain reads and answers without an object each.

    It does what :meth:`InitiatorDatamover.send_command` and :meth:`DatamoverUser.control_notify` do for the same PDUs.
    """

    def answer_quickly(self, end: QuickEnd) -> None:
        """From now on call ``end`` for each SCSI Response that says GOOD and nothing else, its tags invalidated."""

    def quick_read(self, itt: int, lun: int, cmd_sn: int, exp_stat_sn: int, cdb: bytes, data_in: SgList) -> None:
        """Send a SIMPLE command that reads all of ``data_in``, with a CDB of up to 16 bytes, and register its buffer.

        Raises as :meth:`InitiatorDatamover.send_command` does.
        """


class InitiatorDatamover(Datamover):
    """The initiator's side."""

    #: The short way, where there is one.
    quick: QuickCommands | None = None

    @abstractmethod
    def send_command(self, pdu: Pdu, buffers: TaskBuffers) -> None:
        """Send_Control of a SCSI Command: register its buffers, advertise their tags, send.

        The length fields of its BHS are the caller's: ``data_segment_length`` is ``immediate_data_size``.  Raises
        ResourceError, with nothing sent, when a list cannot be registered.
        """


#: Carries out the SCSI Command whose BHS is at an offset of a buffer, with its data segment, if it is a plain one.
#: False when it is not: then nothing was done, and the PDU goes to :meth:`DatamoverUser.control_notify`.
QuickStart = Callable[[ReadBuffer, int, memoryview | bytes], bool]


class QuickPath(Protocol):
    """What a target's datamover may offer besides its primitives: a way for plain commands that makes no objects.

    ``quick_limit`` is the most bytes that :meth:`quick_read` takes, 0 for none.  Both answers are those of the command
    that :data:`QuickStart` is called for, and end it.  ``blind`` is that of :class:`TargetDatamover`.
    """

    @property
    def blind(self) -> bool: ...

    @property
    def quick_limit(self) -> int: ...

    def serve_quickly(self, start: QuickStart) -> None:
        """From now on ask ``start`` first, for each SCSI Command that is not immediate and has no AHS."""

    def quick_read(
        self,
        itt: int,
        views: Sequence[memoryview],
        length: int,
        stat_sn: int,
        exp_cmd_sn: int,
        max_cmd_sn: int,
        data_sn: int,
    ) -> None:
        """Move ``length`` bytes, then GOOD; ``data_completion_notify`` follows unless ``data_sn`` is 0."""

    def quick_good(self, itt: int, stat_sn: int, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """GOOD without data."""


class TargetDatamover(Datamover):
    """The target's side.  ``views`` must stay untouched until the data has moved."""

    #: The short way, where there is one.
    quick: QuickPath | None = None
    #: Does it pass what it puts on to the kernel without looking at a byte?
    blind = False

    @abstractmethod
    def can_put(self, itt: int) -> bool:
        """True when the task has a read buffer to put data into: without one ``put_data`` raises."""

    @abstractmethod
    def can_get(self, itt: int) -> bool:
        """True when the task has a write buffer to get data from: without one ``get_data`` raises."""

    @abstractmethod
    def put_data(self, itt: int, views: Sequence[memoryview], offset: int, data_sn: int, *, notify: bool) -> None:
        """Move ``views`` into the read buffer at ``offset``; ``data_completion_notify`` follows if ``notify``."""

    @abstractmethod
    def get_data(self, itt: int, views: Sequence[memoryview], offset: int, r2t_sn: int) -> None:
        """Fill ``views`` from the task's write buffer at ``offset``; ``data_completion_notify`` follows."""
