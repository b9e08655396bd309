"""Login status classes and details (RFC 7143 section 11.13.5)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from iser.errors import LoginError

__all__ = ["LoginStatus", "describe_status", "login_error"]


class LoginStatus(IntEnum):
    """Class in the high byte, detail in the low one."""

    SUCCESS = 0x0000
    MOVED_TEMPORARILY = 0x0101
    MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


_ADVICE: Final[dict[int, str]] = {
    LoginStatus.MOVED_TEMPORARILY: "target moved temporarily; log in at the address that it gave",
    LoginStatus.MOVED_PERMANENTLY: "target moved permanently; log in at the address that it gave from now on",
    LoginStatus.INITIATOR_ERROR: "the target found fault with the login; look in the target's log",
    LoginStatus.AUTHENTICATION_FAILURE: "authentication failed; check user name, password and method",
    LoginStatus.AUTHORIZATION_FAILURE: "this initiator name may not use this target; ask for access",
    LoginStatus.NOT_FOUND: "no such target here; check the target name, or discover the portal",
    LoginStatus.TARGET_REMOVED: "target removed and no new address known",
    LoginStatus.UNSUPPORTED_VERSION: "iSCSI version not supported by the target",
    LoginStatus.TOO_MANY_CONNECTIONS: "too many connections on this session",
    LoginStatus.MISSING_PARAMETER: "the target misses a parameter, or requires one that was not offered",
    LoginStatus.CANNOT_INCLUDE_IN_SESSION: "the target cannot add this connection to the session",
    LoginStatus.SESSION_TYPE_NOT_SUPPORTED: "session type not supported by the target",
    LoginStatus.SESSION_DOES_NOT_EXIST: "no such session at the target; log in anew with TSIH 0",
    LoginStatus.INVALID_DURING_LOGIN: "the target got a request that is not allowed during login",
    LoginStatus.TARGET_ERROR: "hardware or software error at the target; look in the target's log",
    LoginStatus.SERVICE_UNAVAILABLE: "the target is not available now; try again later",
    LoginStatus.OUT_OF_RESOURCES: "the target is out of resources; try again later",
}


def describe_status(status_class: int, status_detail: int) -> str:
    """What a login status means and what to do about it; any pair of bytes has a description."""
    return _ADVICE.get(status_class << 8 | status_detail, f"login status of class {status_class}")


def login_error(status: LoginStatus, message: str) -> LoginError:
    """A :class:`LoginError` of ``status``."""
    return LoginError(message, status >> 8, status & 0xFF)
