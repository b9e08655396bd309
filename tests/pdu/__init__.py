"""Tests of :mod:`iser.pdu`."""
