"""The four bytes that iSER peers exchange in the connection manager's private data (IBTA annex A12)."""

from __future__ import annotations

from typing import Final

__all__ = ["PRIVATE_DATA_LENGTH", "build_private_data", "invalidation_offered"]

PRIVATE_DATA_LENGTH: Final = 4
NO_ZERO_BASED_VA: Final = 0x80
NO_SEND_WITH_INVALIDATE: Final = 0x40


def build_private_data(remote_invalidate: bool) -> bytes:
    """Our private data: no zero-based addresses, and Send with Invalidate or not."""
    flags = NO_ZERO_BASED_VA if remote_invalidate else NO_ZERO_BASED_VA | NO_SEND_WITH_INVALIDATE
    return bytes((flags, 0, 0, 0))


def invalidation_offered(private_data: bytes) -> bool:
    """True when the peer agrees to Send with Invalidate.  Silence is not agreement (Linux reads it so on iWARP)."""
    return len(private_data) >= PRIVATE_DATA_LENGTH and not private_data[0] & NO_SEND_WITH_INVALIDATE
