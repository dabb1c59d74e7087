"""Tests of what the standard library lacks."""
