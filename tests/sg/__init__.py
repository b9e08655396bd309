"""Tests of iser.sg."""
