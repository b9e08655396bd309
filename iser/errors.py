"""The one exception tree of the project.

Every message says who did what and what to do about it.  Errors of the operating system and of libraries are mapped
to these at the border where they come in, and nowhere else::

    IserError
    ├── UsageError            the caller passed something wrong (also a ValueError)
    │   ├── ConfigError       a configuration file, with the place in it
    │   └── UrlError          a URL
    ├── ProtocolError
    │   ├── LocalProtocolError    our own side asked for what the protocol forbids in this state
    │   └── RemoteProtocolError   the peer broke the protocol
    │       ├── PduError          a PDU that cannot be parsed or is not legal here
    │       ├── TextError         a malformed key=value text
    │       ├── MpaError          a malformed MPA frame or FPDU
    │       └── TerminateError    a DDP or RDMAP fault, with the codes of the Terminate message
    ├── NegotiationError      the peers cannot agree on a key
    ├── LoginError            a login ended with a status other than success
    ├── MemoryRegionError     a registration, key or bounds fault of local making
    ├── ConnectionFailed      a connection could not be made
    │   └── ConnectionRejected    the peer refused it
    ├── ConnectionLost        an established connection ended
    ├── ResourceError         a named limit was reached
    │   └── PoolEmpty             for now: what others hold comes back
    ├── BackendError          a storage backend failed
    └── CommandError          a command did not end in GOOD
        ├── ScsiError             SCSI status, with decoded sense
        ├── CommandAborted        aborted by a task management function or by the caller
        └── CommandTimeout        no answer in time
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CommandAborted",
    "CommandError",
    "CommandTimeout",
    "ConfigError",
    "ConnectionFailed",
    "ConnectionLost",
    "ConnectionRejected",
    "IserError",
    "LocalProtocolError",
    "LoginError",
    "MemoryRegionError",
    "MpaError",
    "NegotiationError",
    "PduError",
    "PoolEmpty",
    "ProtocolError",
    "RemoteProtocolError",
    "ResourceError",
    "ScsiError",
    "TerminateError",
    "TextError",
    "UrlError",
    "UsageError",
]


class IserError(Exception):
    """Base of every error that this project raises on purpose."""


class UsageError(IserError, ValueError):
    """The caller passed something that cannot work; the message names the argument and the fix."""


class ConfigError(UsageError):
    """A fault in a configuration; ``place`` is where, as ``file:line`` or a dotted path."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}")
        self.place = place
        self.what = what


class UrlError(UsageError):
    """A URL that cannot be understood."""


class ProtocolError(IserError):
    """Base of protocol violations of either side."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the protocol forbids in the present state."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


class PduError(RemoteProtocolError):
    """A PDU that cannot be parsed, or that is not legal here.

    ``reason`` is the Reject reason code that answers it (RFC 7143 section 11.17.1).
    """

    def __init__(self, message: str, reason: int = 0x04) -> None:
        super().__init__(message)
        self.reason = reason


class TextError(RemoteProtocolError):
    """A text data segment that is not a list of ``key=value`` pairs (RFC 7143 section 6.1)."""


class MpaError(RemoteProtocolError):
    """A malformed MPA start-up frame or FPDU (RFC 5044)."""


class TerminateError(RemoteProtocolError):
    """A fault that is answered with, or was reported by, an RDMAP Terminate (RFC 5040 section 4.8)."""

    def __init__(self, message: str, layer: int, etype: int, code: int) -> None:
        super().__init__(f"{message} (terminate {layer}/{etype}/{code:02x})")
        self.layer = layer
        self.etype = etype
        self.code = code


class NegotiationError(IserError):
    """The two sides cannot agree on the value of ``key``."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class LoginError(IserError):
    """A login that ended with a status other than success (RFC 7143 section 11.13.5)."""

    def __init__(self, message: str, status_class: int, status_detail: int) -> None:
        super().__init__(f"{message} (login status {status_class:02x}{status_detail:02x})")
        self.status_class = status_class
        self.status_detail = status_detail


class MemoryRegionError(IserError):
    """A memory region used in a way its state, bounds or access flags do not allow, by our own side."""


class ConnectionFailed(IserError):  # noqa: N818 - an event, not an "Error"; the builtin ConnectionError is something else
    """A connection could not be made; the message says to whom and why."""


class ConnectionRejected(ConnectionFailed):
    """The peer refused the connection; ``private_data`` is what it sent along."""

    def __init__(self, message: str, private_data: bytes = b"") -> None:
        super().__init__(message)
        self.private_data = private_data


class ConnectionLost(IserError):  # noqa: N818 - as above
    """An established connection ended; every task on it ends with this."""


class ResourceError(IserError):
    """A named limit was reached."""


class PoolEmpty(ResourceError):  # noqa: N818 - a state that passes, not a fault
    """A pool has nothing left now, but will have when commands that are on their way end."""


class BackendError(IserError):
    """A storage backend failed.

    ``medium`` tells a fault of the medium from one of the machinery around it; ``space`` is set when it is full.
    ``offset`` is the byte of the store from which on a read or write failed, where that is known.
    """

    def __init__(self, message: str, *, medium: bool = True, space: bool = False, offset: int | None = None) -> None:
        super().__init__(message)
        self.medium = medium
        self.space = space
        self.offset = offset


class CommandError(IserError):
    """Base for a SCSI command that did not end in GOOD status."""


class ScsiError(CommandError):
    """A command that ended in a status other than GOOD.

    ``status`` is the SCSI status byte; ``sense`` the raw sense bytes, without their length prefix; ``sense_key``,
    ``asc`` and ``ascq`` are decoded from it, and are 0 where there is no sense.
    """

    def __init__(
        self, message: str, status: int, sense: bytes = b"", sense_key: int = 0, asc: int = 0, ascq: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.sense = sense
        self.sense_key = sense_key
        self.asc = asc
        self.ascq = ascq


class CommandAborted(CommandError):  # noqa: N818 - an outcome, named as the standard names it
    """The command was aborted by a task management function, by a lost session or by its caller."""


class CommandTimeout(CommandError):  # noqa: N818 - as above
    """The command was not answered in time; it has been aborted."""
