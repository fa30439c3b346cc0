"""Kernels of softmax attention: forward, the gradient of query, the gradients of key and value."""
