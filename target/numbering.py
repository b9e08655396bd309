"""Sequence numbers of a session at the target: the command window and the status numbers (RFC 7143 section 4.2.2)."""

from __future__ import annotations

from iser.pdu import sn_le

__all__ = ["Numbering"]

_MASK = 0xFFFFFFFF


class Numbering:
    """ExpCmdSN, MaxCmdSN and StatSN.

    ``open`` counts commands that have come and not ended.  The window is ``depth`` of them, so MaxCmdSN moves when one
    ends; it never goes back.
    """

    __slots__ = ("depth", "exp_cmd_sn", "open", "stat_sn")

    def __init__(self, cmd_sn: int, stat_sn: int, depth: int) -> None:
        self.exp_cmd_sn = cmd_sn
        self.stat_sn = stat_sn
        self.depth = depth
        self.open = 0

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN that the initiator may use."""
        return (self.exp_cmd_sn + self.depth - 1 - self.open) & _MASK

    @property
    def room(self) -> bool:
        """True when the window is open."""
        return self.open < self.depth

    def next_stat_sn(self) -> int:
        """The number of the response being built."""
        number = self.stat_sn
        self.stat_sn = (number + 1) & _MASK
        return number

    def admits(self, cmd_sn: int) -> bool:
        """True when ``cmd_sn`` is in the window."""
        return sn_le(self.exp_cmd_sn, cmd_sn) and sn_le(cmd_sn, self.max_cmd_sn)

    def begin(self) -> None:
        """The command numbered ExpCmdSN has come."""
        self.exp_cmd_sn = (self.exp_cmd_sn + 1) & _MASK
        self.open += 1

    def undo(self) -> None:
        """Take the last :meth:`begin` back: the command was rejected, and its number counts as not received."""
        self.exp_cmd_sn = (self.exp_cmd_sn - 1) & _MASK
        self.open -= 1

    def end(self) -> None:
        """A command that :meth:`begin` counted has ended."""
        self.open -= 1
