"""Settings of the verbs provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from iser.errors import UsageError
from iser.rdma.verbs.mrcache import DEFAULT_CACHE

__all__ = ["FLUSH_TIMEOUT", "MIN_SEND_DEPTH", "SEND_DEPTH", "SIGNAL_INTERVAL", "VerbsOptions"]

SEND_DEPTH: Final = 512  # work requests in the device's send queue; what is posted beyond waits in ours
SIGNAL_INTERVAL: Final = 16  # at least each so many requests ask for a completion, which frees those before it
MIN_SEND_DEPTH: Final = 2 * SIGNAL_INTERVAL  # else the device's queue could be full without a completion to come
FLUSH_TIMEOUT: Final = 0.5  # seconds for the device to flush a dead queue pair; not every device flushes everything


@dataclass(frozen=True, slots=True)
class VerbsOptions:
    """How the provider behaves.  Times in seconds, sizes in bytes.

    ``cache_bytes``: memory kept registered for each connection.  ``inline``: the largest message that is asked to go
    inline.  ``indirect``: use mlx5 indirect keys where the device has them.
    ``revoke_keys``: deregister what a peer was given a key to as soon as its command is over, at the price of
    registering it for each command; otherwise an ordinary region's key outlives the command in the cache.
    ``linger_timeout``: how long to wait for what was posted to go out, and for the peer to agree to the end.
    """

    cache_bytes: int = DEFAULT_CACHE
    inline: int = 220
    indirect: bool = True
    revoke_keys: bool = False
    linger_timeout: float = 2.0
    send_depth: int = SEND_DEPTH

    def __post_init__(self) -> None:
        if self.send_depth < MIN_SEND_DEPTH:
            raise UsageError(f"send_depth = {self.send_depth}: give at least {MIN_SEND_DEPTH}")
        if self.inline < 0 or self.cache_bytes < 0:
            raise UsageError("inline and cache_bytes cannot be negative")
