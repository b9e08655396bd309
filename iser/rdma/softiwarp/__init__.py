"""An RNIC in software: real iWARP (MPA, DDP, RDMAP) on TCP sockets, behind the verbs seam."""

from iser.rdma.softiwarp.cm import SoftIwarp, SoftListener
from iser.rdma.softiwarp.options import SoftIwarpOptions

__all__ = ["SoftIwarp", "SoftIwarpOptions", "SoftListener"]
