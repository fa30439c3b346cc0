"""The backward pass of the attention variants: weights recomputed tile by tile from the LSE.

Letters and layout as in ``flash_layout``.
"""

import torch
from torch import Tensor

from tests.variants.flash_layout import Execution, Logits, like_bias, rows, unrows

__all__ = ["gradients"]


def gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    bias: Tensor | None,
    logits: Logits,
    sink: Tensor | None,
    stored: Tensor,
    lse: Tensor,
    grads: tuple[Tensor, ...],
    scale: float,
    execution: Execution,
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of query, key, value, sinks, bias, and three None for what has no gradient.

    Args:
        query: (B, T, H, D), and so on: the inputs.
        key: the same.
        value: the same.
        sinks: (H,) or None.
        bias: additive bias or None.
        logits: of all keys.
        sink: exponent of the sink per row, or None.
        stored: the output that the forward pass stored.
        lse: (B, G, R T, 1).
        grads: cotangents of output and LSE.
        scale: of the dot products.
        execution: one way through the keys.
    """
    groups, heads, tokens = key.shape[2], query.shape[2], query.shape[1]
    values, grad_out = rows(value, groups), rows(grads[0], groups)
    known = torch.where(lse == -torch.inf, 0.0, lse) * execution.base
    grad_lse = grads[1].reshape(lse.shape)
    if execution.sums_delta:
        delta = _summed_delta(logits, values, grad_out, known, execution) - grad_lse
    else:
        delta = (grad_out * rows(stored, groups)).sum(-1, keepdim=True) - grad_lse
    pull = _Pull(logits, values, grad_out, known, delta, bias, tokens, execution)
    step = execution.query_tile or max(known.shape[-2], 1)
    for first in range(0, known.shape[-2], step):
        for start, stop in execution.gradient_ranges(key.shape[1]):
            pull.tile(slice(first, first + step), start, stop, query.dtype)
    grad_sinks = None
    if sinks is not None and sink is not None:
        pieces = execution.exp(sink - known) * delta
        grad_sinks = -pieces.reshape(query.shape[0], heads, tokens).sum((0, 2)).to(sinks.dtype)
    return (
        (unrows(pull.query, heads) * scale).to(query.dtype),
        (pull.key.transpose(1, 2) * scale).to(key.dtype),
        pull.value.transpose(1, 2).to(value.dtype),
        grad_sinks,
        None if bias is None else pull.bias_gradient().to(bias.dtype),
        None,
        None,
        None,
    )


def _summed_delta(logits: Logits, values: Tensor, grad_out: Tensor, known: Tensor, execution: Execution) -> Tensor:
    """Returns the row sums of ``weights * grad_weights``."""
    delta = torch.zeros_like(known)
    for start, stop in execution.gradient_ranges(values.shape[-2]):
        weights = execution.exp(logits.tile(start, stop) - known)
        delta = delta + (weights * (grad_out @ values[..., start:stop, :].mT)).sum(-1, keepdim=True)
    return delta


class _Pull:
    """The accumulators of the backward pass."""

    def __init__(
        self,
        logits: Logits,
        values: Tensor,
        grad_out: Tensor,
        known: Tensor,
        delta: Tensor,
        bias: Tensor | None,
        tokens: int,
        execution: Execution,
    ) -> None:
        self._logits, self._values, self._grad_out = logits, values, grad_out
        self._known, self._delta, self._tokens, self._execution = known, delta, tokens, execution
        self.query = torch.zeros_like(logits.query)
        self.key, self.value = torch.zeros_like(logits.key), torch.zeros_like(values)
        self._bias = bias
        self._grad_logits = None if bias is None else known.new_zeros(*known.shape[:-1], values.shape[-2])

    def tile(self, chosen: slice, start: int, stop: int, storage: torch.dtype) -> None:
        """Adds what some rows and a tile of keys give."""
        execution = self._execution
        keys, values = self._logits.key[..., start:stop, :], self._values[..., start:stop, :]
        grad_out = self._grad_out[..., chosen, :]
        weights = execution.exp(self._logits.tile(start, stop, chosen) - self._known[..., chosen, :])
        self.value[..., start:stop, :] += execution.as_weights(weights, storage).mT @ grad_out
        grad_logits = weights * (grad_out @ values.mT - self._delta[..., chosen, :])
        operand = execution.as_operand(grad_logits, storage)
        self.query[..., chosen, :] += operand @ keys
        self.key[..., start:stop, :] += operand.mT @ self._logits.query[..., chosen, :]
        if self._grad_logits is not None:
            self._grad_logits[..., chosen, start:stop] = grad_logits

    def bias_gradient(self) -> Tensor:
        """Returns the gradient of the bias in float32, summed to its shape."""
        assert self._bias is not None, "asked for with a bias only"
        assert self._grad_logits is not None, "kept with a bias"
        return like_bias(self._grad_logits, self._bias, self._tokens)
