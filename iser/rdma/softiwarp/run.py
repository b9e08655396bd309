"""A run of tagged segments whose payload goes from the socket straight to its place, in few system calls.

The header of the first segment has been checked.  Those of the others are *foreseen*: a sender cuts a message into
segments of one size, so it can be told what the next header will be.  One call then fills the payloads of several
segments and, between them, the gaps: a CRC field and the header that follows it.  A gap is compared as soon as it is
full.  When something else came, all that was placed behind it is given back to be parsed like any other bytes.

So a byte may for a moment lie where it does not belong.  That is only where the very next bytes of the same message
must go, never behind the message's end, and never in memory that anybody may look at before the message is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from iser.rdma.softiwarp.wire import CTRL_LAST, TAGGED, TAGGED_HEADER

__all__ = ["RUN_PIECES", "RUN_SEGMENTS", "Run"]

RUN_SEGMENTS: Final = 17  # segments received at once: 1 MiB of those that our own transmitter makes
RUN_PIECES: Final = 512  # views handed out at once
_CRC: Final = 4
_GAP: Final = _CRC + 2 + TAGGED_HEADER


class Run:
    """``header`` is that of the segment being received, which has been checked.

    ``left`` counts what is missing to the end of the payload of the run's last segment; ``trailer`` bytes follow that,
    and ``last`` tells whether it ends its message.  ``done`` counts payload bytes of the segments before the current
    one.  ``strays`` holds what came in the place of a header that was foreseen, None as long as all came as expected.
    """

    __slots__ = ("_at", "_came", "_foreseen", "_pieces", "_skip", "done", "header", "last", "left", "strays", "trailer")

    def __init__(self, header: bytes, trailer: int, pieces: list[memoryview], length: int) -> None:
        self.header = header
        self.trailer = trailer
        self.last = bool(TAGGED.unpack(header)[1] & CTRL_LAST)
        self.left = length
        self.done = 0
        self.strays: bytes | None = None
        self._pieces = pieces
        self._at = self._skip = 0  # the piece to go on with, and how much of it is filled
        self._came = 0
        #: Of the gaps, the next one last: the bytes of the run up to its end, its piece, the header to come in it.
        self._foreseen: list[tuple[int, int, bytes]] = []

    def foresee(self, slices: Callable[[int, int], list[memoryview]], offset: int, left: int) -> None:
        """Expect segments like the first one, which needs no padding, for ``left`` more bytes of its message.

        ``slices`` gives the memory for an offset, from ``offset`` on, and a length.
        """
        size, control, stag, to = TAGGED.unpack(self.header)
        size -= TAGGED_HEADER
        pieces, length, foreseen = self._pieces, self.left, self._foreseen
        gaps = memoryview(bytearray(_GAP * RUN_SEGMENTS))
        for start in range(0, _GAP * (RUN_SEGMENTS - 1), _GAP):
            if not left:
                break
            to += size
            if left <= size:
                size = left
                control |= CTRL_LAST
            more = slices(offset, size)
            if len(pieces) + len(more) >= RUN_PIECES:
                break
            foreseen.append((length + _GAP, len(pieces), TAGGED.pack(size + TAGGED_HEADER, control, stag, to)))
            pieces.append(gaps[start : start + _GAP])
            pieces += more
            length += _GAP + size
            offset += size
            left -= size
            self.trailer = (-size - TAGGED_HEADER - 2 & 3) + _CRC
            self.last = not left
        self.left = length
        foreseen.reverse()

    def go_on(self, header: bytes, trailer: int, last: bool, pieces: list[memoryview], length: int) -> None:
        """Receive another segment, of which ``length`` bytes are missing, after one that foresaw nothing."""
        self.header = header
        self.trailer = trailer
        self.last = last
        self.left = length
        self._pieces = pieces
        self._at = self._skip = 0

    def buffers(self) -> list[memoryview]:
        """What is not filled yet: all of it, or RUN_PIECES views and one more."""
        pieces = self._pieces[self._at : self._at + RUN_PIECES + 1]
        if self._skip:
            pieces[0] = pieces[0][self._skip :]
        return pieces

    def took(self, count: int) -> int:
        """``count`` bytes were put into the buffers; returns how many of them came behind the run's end."""
        left, foreseen = self.left, self._foreseen
        if count >= left and not foreseen:
            self.left = 0
            return count - left
        placed = min(count, left)
        self.left = left - placed
        self._came += placed
        while foreseen and self._came >= foreseen[-1][0]:
            end, at, header = foreseen.pop()
            if self._pieces[at][_CRC:] != header:
                self._stray(end, at)
                break
            self.done += TAGGED.unpack(self.header)[0] - TAGGED_HEADER
            self.header = header
        if self.left:
            self._move(placed)
        return count - placed

    def _stray(self, end: int, at: int) -> None:
        """The gap ``at`` holds the wrong header: give it back, with what came behind it, and end the run before it."""
        count = self._came - end + _GAP
        came = bytearray()
        for piece in self._pieces[at:]:
            came += piece[: count - len(came)]
            if len(came) == count:
                break
        self.strays = bytes(came)
        self.left = 0
        self.last = False
        self.trailer = _CRC

    def _move(self, count: int) -> None:
        """Go on ``count`` bytes further."""
        count += self._skip
        at, pieces = self._at, self._pieces
        while count >= (size := len(pieces[at])):
            count -= size
            at += 1
        self._at, self._skip = at, count
