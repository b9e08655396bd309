"""RDMA: the verbs seam (:mod:`iser.rdma.api`) and its providers."""
