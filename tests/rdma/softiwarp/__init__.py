"""Tests of :mod:`iser.rdma.softiwarp`."""
