"""Shared secrets: where they come from, and a wrapper that keeps them out of messages and logs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from iser.errors import UsageError

__all__ = ["MAX_SECRET", "MIN_SECRET", "Secret"]

MIN_SECRET: Final = 12  # bytes: RFC 7143 section 9.2.1 asks for 96 bits where IPsec does not protect the connection
MAX_SECRET: Final = 255  # bytes


class Secret:
    """A secret whose text form tells nothing.  Two are equal when their bytes are."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes, where: str = "the secret") -> None:
        """Raises UsageError, which names ``where``, for one that is too short or too long."""
        if not MIN_SECRET <= len(value) <= MAX_SECRET:
            raise UsageError(f"{where} has {len(value)} bytes; CHAP needs {MIN_SECRET} to {MAX_SECRET}")
        self._value = value

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Secret:
        """The first line of a file that others may not read.  Raises UsageError."""
        try:
            with Path(path).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if stat.S_ISREG(mode) and mode & stat.S_IROTH:
                    raise UsageError(f"{path} may be read by everybody; run chmod 600 on it")
                line = file.readline(MAX_SECRET + 3)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        return cls(line.rstrip(b"\r\n"), f"the secret in {path}")

    @classmethod
    def from_environment(cls, name: str, environment: Mapping[str, str] = os.environ) -> Secret:
        """The value of an environment variable.  Raises UsageError."""
        value = environment.get(name)
        if value is None:
            raise UsageError(f"the environment variable {name} is not set; it has to hold a secret")
        return cls(value.encode(errors="surrogateescape"), f"the secret in ${name}")

    def reveal(self) -> bytes:
        """The bytes, for a hash function."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "<Secret>"
