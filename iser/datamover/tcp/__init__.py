"""The TCP datamover: plain iSCSI (RFC 7143) behind the same primitives as iSER."""

from __future__ import annotations

from iser.datamover.tcp.initiator import TcpInitiator
from iser.datamover.tcp.target import TcpTarget

__all__ = ["TcpInitiator", "TcpTarget"]
