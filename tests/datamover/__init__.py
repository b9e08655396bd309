"""Tests of iser.datamover."""
