"""The operations in plain torch, one file each, differentiable by autograd, on any device and dtype.

A function named like its operation computes as a good fused kernel does: 16-bit inputs are widened to float32, nothing
is rounded on the way, and the results are rounded once. A function named ``..._stored`` is the textbook formula as it
is commonly written, where every tensor on the way is stored in the dtype of the inputs. float64 inputs give float64.
"""
