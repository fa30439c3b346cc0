"""Legal executions of the gated delta rule token by token, the state in float32.

Letters: B batch, T tokens, H value heads, D query/key head width, V value head width.
"""

from typing import Any

import torch
from torch import Tensor

from tests.variants.delta_rule_call import Run, rule

__all__ = ["make_recurrent", "make_transition", "make_transposed"]


def make_recurrent(*, is_reversed: bool = False) -> Run:
    """Returns ``gated_delta_rule`` token by token in float32.

    Args:
        is_reversed: whether sums over key channels run from the last to the first.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, _: torch.dtype) -> Any:
        if is_reversed:
            q, k, state = q.flip(-1), k.flip(-1), state.flip(-2)
        outs = []
        for token in range(q.shape[2]):
            column, row = k[:, :, token, :, None], q[:, :, token, None]
            state = log_decay[:, :, token, :, None].exp() * state
            error = v[:, :, token, None] - column.mT @ state
            state = state + column * (beta[:, :, token, :, None] * error)
            outs.append(row @ state)
        return torch.cat(outs, 2), state.flip(-2) if is_reversed else state

    return rule(run)


def make_transition(*, reads_apart: bool = False) -> Run:
    """Returns ``gated_delta_rule`` with the write as ``(I - beta k k^T) exp(g) S + beta k v^T``.

    Args:
        reads_apart: whether a result is made of the old state and of what was just written, instead of the new state.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, _: torch.dtype) -> Any:
        outs = []
        for token in range(q.shape[2]):
            column, row = k[:, :, token, :, None], q[:, :, token, None]
            value, rate = v[:, :, token, None], beta[:, :, token, :, None]
            decayed = state * log_decay[:, :, token, :, None].exp()
            error = value - column.mT @ decayed
            state = decayed - (rate * column) @ (column.mT @ decayed) + (rate * column) * value
            apart = row @ decayed + (row @ column) * (rate * error)
            outs.append(apart if reads_apart else row @ state)
        return torch.cat(outs, 2), state

    return rule(run)


def make_transposed(*, decays_error: bool = False) -> Run:
    """Returns ``gated_delta_rule`` with the state as (V, D), its sums as products and sums over the last axis.

    Args:
        decays_error: whether what is recalled decays, instead of the state that it is recalled from.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, _: torch.dtype) -> Any:
        state = state.mT
        outs = []
        for token in range(q.shape[2]):
            key, query = k[:, :, token, None], q[:, :, token, None]
            decay, rate = log_decay[:, :, token, :, None].exp(), beta[:, :, token, :, None]
            decayed = state * decay
            source = state if decays_error else decayed
            recalled = (source * key).sum(-1, keepdim=True) * (decay if decays_error else 1.0)
            state = decayed + (rate * (v[:, :, token, :, None] - recalled)) * key
            outs.append((state * query).sum(-1)[:, :, None])
        return torch.cat(outs, 2), state.mT

    return rule(run)
