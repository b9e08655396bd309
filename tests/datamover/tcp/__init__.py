"""Tests of the TCP datamover."""
