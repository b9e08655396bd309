"""Tests of the plain TCP parts."""
