"""Tests of target.config.importing."""
