"""Tests of the campaign on a GPU."""
