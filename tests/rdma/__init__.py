"""Tests of :mod:`iser.rdma`."""
