"""Tests, one module for each source module."""
