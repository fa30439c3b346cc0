"""Tests of the fast versions, on a CPU: Triton kernels run in Triton's interpreter."""
