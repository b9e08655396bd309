"""Settings of the software RNIC, and the limits that a peer could otherwise push."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from iser.errors import UsageError
from iser.rdma.api import DeviceAttributes, DeviceCap

__all__ = [
    "DEFAULT_ATTRIBUTES",
    "HANDSHAKE_GRACE",
    "LINGER_TIMEOUT",
    "MAX_KEYS",
    "MAX_PENDING",
    "MIN_SEGMENT",
    "MPA_TIMEOUT",
    "STALL_TIMEOUT",
    "SoftIwarpOptions",
]

MPA_TIMEOUT: Final = 10.0  # seconds for the peer to send its MPA frame
HANDSHAKE_GRACE: Final = 0.1  # seconds of them that it has even where others wait for its place
MAX_PENDING: Final = 64  # connections of one listener that are not accepted or refused yet; more wait in the backlog
STALL_TIMEOUT: Final = 30.0  # seconds without progress while there is something to send
LINGER_TIMEOUT: Final = 2.0  # seconds to wait for the peer's end of the stream after ours
MAX_KEYS: Final = 1 << 20  # regions and queue pairs of one device
MIN_SEGMENT: Final = 128  # bytes; the smallest MULPDU (RFC 5044 section 5.1)

DEFAULT_ATTRIBUTES: Final = DeviceAttributes(
    caps=DeviceCap.MEM_MGT_EXTENSIONS | DeviceCap.SG_GAPS_REG,
    max_qp_wr=65536,
    max_sge=1024,
    max_sge_rd=1024,
    max_cqe=1 << 20,
    max_mr_bytes=1 << 30,
    max_page_list=4096,
    max_sg_list=4096,
    max_qp_rd_atom=128,
    max_qp_init_rd_atom=128,
    page_size_cap=0xFFFFFE00,  # from 512 bytes on
)


@dataclass(frozen=True, slots=True)
class SoftIwarpOptions:
    """How the provider behaves.  Times in seconds, sizes in bytes.

    ``crc``: ask for CRC32C; ``"auto"`` asks unless the peer is on loopback.  A peer that asks always gets them.
    ``segment``: the largest ULPDU to send, ``"mss"`` for one FPDU a TCP segment, ``"auto"`` for large ones on loopback
    and ``"mss"`` elsewhere.
    ``first_fpdu_delay`` and ``nudge_delay``: the kernel's siw, as responder, can miss a first FPDU that comes right
    after its MPA Reply until more bytes arrive.  As initiator we wait that long before the first FPDU, and send an
    empty RDMA Write when nothing was heard so long after it.  0 turns either off.
    """

    crc: bool | Literal["auto"] = "auto"
    segment: int | Literal["auto", "mss"] = "auto"
    mpa_version: int = 2
    peer_to_peer: bool = False
    first_fpdu_delay: float = 0.010
    nudge_delay: float = 0.5
    stall_timeout: float = STALL_TIMEOUT
    linger_timeout: float = LINGER_TIMEOUT
    mpa_timeout: float = MPA_TIMEOUT
    max_pending: int = MAX_PENDING
    socket_buffer: int = 4 << 20
    attributes: DeviceAttributes = field(default=DEFAULT_ATTRIBUTES)

    def __post_init__(self) -> None:
        if self.crc not in (True, False, "auto"):
            raise UsageError(f"crc = {self.crc!r}: give True, False or 'auto'")
        if isinstance(self.segment, int):
            if not MIN_SEGMENT <= self.segment <= 0xFFFF:
                raise UsageError(f"segment = {self.segment}: give {MIN_SEGMENT} to 65535 bytes, 'mss' or 'auto'")
        elif self.segment not in ("auto", "mss"):
            raise UsageError(f"segment = {self.segment!r}: give a number of bytes, 'mss' or 'auto'")
        if self.mpa_version not in (1, 2):
            raise UsageError(f"mpa_version = {self.mpa_version}: give 1 or 2")
