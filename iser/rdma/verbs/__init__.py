"""RDMA devices through rdma-core: pyverbs for devices, memory and queues, librdmacm for connections."""

from iser.rdma.verbs.cm import Verbs
from iser.rdma.verbs.options import VerbsOptions

__all__ = ["Verbs", "VerbsOptions"]
