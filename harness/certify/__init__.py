"""Certification of `reference/` by ball arithmetic: `certify.py` says how; importing this package imports nothing."""
