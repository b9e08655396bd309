"""What the lab raises."""

from __future__ import annotations

__all__ = ["LabError", "LabUnavailable"]


class LabError(Exception):
    """The lab did not do what it should; the message says what to look at."""


class LabUnavailable(LabError):  # noqa: N818 - a state of this machine rather than an error
    """The lab cannot run on this machine; the message is one line on what is missing."""
