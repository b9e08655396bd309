"""Tests of :mod:`iser.login`."""
