"""Kernels of the gated delta rule in chunks, forward and backward."""
