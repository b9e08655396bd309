"""What a login asks of the target's configuration and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from iser.login.auth import TargetAuth
from iser.login.keys import Transport
from iser.login.params import NegotiatedParameters
from iser.login.result import TargetAddress

__all__ = ["Admission", "AdmissionRequest", "Redirection", "TargetDirectory"]


class AdmissionRequest(NamedTuple):
    """Who asks for what.  ``tsih`` 0 asks for a new session; ``target_name`` may be "" in a discovery session."""

    initiator_name: str
    initiator_alias: str
    isid: bytes
    tsih: int
    cid: int
    target_name: str
    session_type: str
    transport: Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A login that may go on.

    ``auth``, if given, replaces the one that the login was made with.  ``session_params`` are those of the session that
    a connection with a TSIH joins; the login takes the session-wide values from there, so they must be given then.
    """

    portal_group_tag: int = 1
    target_alias: str = ""
    auth: TargetAuth | None = None
    session_params: NegotiatedParameters | None = None


class Redirection(NamedTuple):
    """The target is elsewhere: status 0101, or 0102 if ``permanent``."""

    address: TargetAddress
    permanent: bool = False


class TargetDirectory(Protocol):
    """What a login asks of the target's configuration and sessions."""

    def admit(self, request: AdmissionRequest) -> Admission | Redirection:
        """Whether the login may go on, before authentication.

        Raises ``LoginError``: 0203 for no such target, 0202 for an initiator without access, 0204, 0206, 0208, 0209,
        020a for an unknown TSIH, 0301.
        """

    def grant_tsih(self, request: AdmissionRequest) -> int:
        """The TSIH, 1 to 65535, of the new session whose login is about to succeed; not asked when joining one.

        Raises ``LoginError`` 0302 if there can be no more sessions.
        """
