"""Tests of target.config."""
