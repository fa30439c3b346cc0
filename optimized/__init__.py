"""The fast versions of the operations; importing this package imports no kernel stack."""
