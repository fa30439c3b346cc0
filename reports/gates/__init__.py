"""Kinds of evidence that the gate compares with a baseline, one file each."""
