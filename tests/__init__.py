"""Tests of the four rooms."""
