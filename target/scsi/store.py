"""Where persistent reservations are kept that shall outlive a loss of power (APTPL, SPC-4 5.13.5)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Final

from iser.errors import BackendError
from iser.scsi.const import ReservationType
from target.scsi.nexus import nexus_id, split_id
from target.scsi.reservations import Persistent, Reservation

__all__ = ["MAX_STORED", "ReservationStore"]

#: The longest file that is taken for one of ours, in bytes.
MAX_STORED: Final = 1 << 20
_MAX_KEY = (1 << 64) - 1

log = logging.getLogger("iser.target")


class ReservationStore:
    """A small file that holds the state of one logical unit.  It is there only while an initiator asked for it."""

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> Persistent:
        """What was stored last, or nothing.  Raises BackendError for a file that cannot be read or understood."""
        try:
            text = self.path.read_bytes()[: MAX_STORED + 1]
        except FileNotFoundError:
            return Persistent()
        except OSError as error:
            raise BackendError(f"{self.path}: reservations cannot be read: {error.strerror}", medium=False) from error
        try:
            return _decode(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(
                f"{self.path} is no file of reservations ({error}); remove it to start without any", medium=False
            ) from error

    def save(self, state: Persistent) -> None:
        """Put ``state`` on stable storage; without APTPL, that there is none.  It blocks.  Raises BackendError."""
        try:
            if state.aptpl and state.keys:
                self._replace(_encode(state))
            else:
                self.path.unlink(missing_ok=True)
                self._sync_directory()
        except OSError as error:
            raise BackendError(f"{self.path}: reservations cannot be kept: {error.strerror}", medium=False) from error

    def _replace(self, text: bytes) -> None:
        """Never a moment without a whole file."""
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            with fresh.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        self._sync_directory()

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(state: Persistent) -> bytes:
    held = state.reservation
    fields = {
        "keys": {name: f"{key:#018x}" for name, key in state.keys.items()},
        "reservation": {"holder": held.holder, "type": int(held.type)} if held else None,
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def _decode(text: bytes) -> Persistent:
    if len(text) > MAX_STORED:
        raise ValueError(f"longer than {MAX_STORED} bytes")
    fields = json.loads(text)
    keys = {_name(name): int(key, 16) for name, key in fields["keys"].items()}
    if not all(0 < key <= _MAX_KEY for key in keys.values()):
        raise ValueError("a key is out of range")
    held = fields["reservation"]
    reservation = Reservation(_name(held["holder"]), ReservationType(held["type"])) if held else None
    return Persistent(keys, reservation, True)  # PRGENERATION starts anew


def _name(text: str) -> str:
    """The name of a nexus, if ``text`` is one.  Raises ValueError."""
    return nexus_id(*split_id(text))
