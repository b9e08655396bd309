"""What an initiator has outstanding: SCSI tasks, other requests, and the task tags that name them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple

from iser.errors import ResourceError
from iser.pdu import Pdu
from iser.sg import SgList

__all__ = ["GOOD", "MAX_TAGS", "Request", "ScsiResult", "TagPool", "Task", "code_name"]

MAX_TAGS: Final = 0xFFE  # tags in use at once; the index 0xFFF is never used, so that no tag is ffffffff
_GENERATION: Final = 0x1000


class ScsiResult(NamedTuple):
    """How a command ended.  ``status`` is the SCSI status byte, ``sense`` the raw sense, without its length.

    ``residual`` is how many bytes of the expected length did not move or, with ``overflow``, how many more the command
    would have moved.
    """

    status: int = 0
    sense: bytes = b""
    residual: int = 0
    overflow: bool = False


GOOD: Final = ScsiResult()  # the very object of every command that succeeded and moved what it was to move


class Task:
    """A SCSI command on its way.  ``itt`` is 0 while it waits for room in the window.

    ``gone`` is set while the task is being aborted, and done once the target can no longer touch its buffers.
    """

    __slots__ = ("cdb", "cmd_sn", "data_in", "data_out", "deadline", "future", "gone", "itt", "lun")

    def __init__(
        self,
        lun: int,
        cdb: bytes,
        data_in: SgList | None,
        data_out: SgList | None,
        deadline: float,
        future: asyncio.Future[ScsiResult],
    ) -> None:
        self.lun = lun
        self.cdb = cdb
        self.data_in = data_in
        self.data_out = data_out
        self.deadline = deadline
        self.future = future
        self.itt = 0
        self.cmd_sn = 0
        self.gone: asyncio.Future[None] | None = None

    def over(self) -> None:
        """The target can no longer touch the buffers; who waits for the answer to an abort must not hold them."""
        self.data_in = self.data_out = None
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)


class Request:
    """Any other request that awaits a response of type ``answer``; ``what`` names it in messages.

    ``timeout`` is in seconds from when it is sent; before that ``deadline`` is infinite.
    ``follow`` takes each response and gives the next request under the same tag, or None when that was the last.
    """

    __slots__ = ("answer", "deadline", "follow", "future", "itt", "timeout", "what")

    def __init__(
        self,
        itt: int,
        what: str,
        answer: type[Any],
        timeout: float,
        future: asyncio.Future[Pdu],
        follow: Callable[[Pdu], Pdu | None] | None = None,
    ) -> None:
        self.itt = itt
        self.what = what
        self.answer = answer
        self.timeout = timeout
        self.deadline = float("inf")
        self.future = future
        self.follow = follow


class TagPool:
    """Initiator task tags.

    The low 12 bits are an index from a small free list, the rest a generation, so that a response that comes late
    never matches a later task of the same index.
    """

    __slots__ = ("_free", "_next")

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 1  # 0 is the login's

    def take(self) -> int:
        """A tag that nobody uses.  Raises ResourceError when MAX_TAGS are in use."""
        if self._free:
            return self._free.pop()
        if self._next > MAX_TAGS:
            raise ResourceError(f"all {MAX_TAGS} task tags of the session are in use; lower the queue depth")
        self._next += 1
        return self._next - 1

    def give(self, itt: int) -> None:
        """Take a tag back; its index comes out again as another tag."""
        self._free.append((itt + _GENERATION) & 0xFFFFFFFF)


def code_name(kind: type[IntEnum], code: int) -> str:
    """A code of the peer's in words; its number where the table has no name for it."""
    try:
        return kind(code).name.replace("_", " ")
    except ValueError:
        return f"{code:#04x}"
