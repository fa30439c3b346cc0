"""The gated delta rule in plain torch, one token after the other, with the state in float32.

Letters: B batch, T tokens, G query/key heads, H value heads, D query/key head width, V value head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.checks import check_multiple, check_offsets, check_shape
from optimized.eager.l2_norm import l2_norm

__all__ = ["DeltaRuleOutput", "check_delta_rule", "gated_delta_rule"]


class DeltaRuleOutput(NamedTuple):
    """Result (B, T, H, V) and the states after the last tokens (sequences, H, D, V)."""

    out: Tensor
    final_state: Tensor


def gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor | None,
    beta: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None = None,
    normalize_qk: bool = False,
    cu_seqlens: Tensor | None = None,
) -> DeltaRuleOutput:
    """Computes the recurrence below in float32 and rounds each token's result once.

    ``S = exp(log_decay) S``, then ``S += beta k (v - S^T k)^T``, then ``out = scale S^T q``.

    Args:
        query: shape (B, T, G, D).
        key: shape (B, T, G, D).
        value: shape (B, T, H, V), H a multiple of G; value head h reads query/key head ``h // (H / G)``.
        log_decay: shape (B, T, H), or None for no decay.
        beta: shape (B, T, H), strength of the write.
        scale: factor of the result.
        initial_state: shape (B, H, D, V), one per packed sequence if ``cu_seqlens`` is given; None is 0.
        normalize_qk: whether query and key pass through ``l2_norm`` first.
        cu_seqlens: integers ``[0, ..., T]``: packed sequences, B = 1; an empty one keeps its state.

    Returns:
        ``out`` (B, T, H, V) in the dtype of ``value``; ``final_state`` (B or sequences, H, D, V), float32 for 16-bit
        inputs.

    Raises:
        ValueError: a shape disagrees, or the offsets do not describe the tokens.

    Source: Yang et al., "Gated Delta Networks", equation 10.
    """
    starts = check_delta_rule(query, key, value, log_decay, beta, initial_state=initial_state, cu_seqlens=cu_seqlens)
    H, G, D, V = value.shape[2], query.shape[2], query.shape[3], value.shape[3]
    q, k, v = widened(query), widened(key), widened(value)
    if normalize_qk:
        q, k = l2_norm(q), l2_norm(k)
    q, k = q.repeat_interleave(H // G, dim=2), k.repeat_interleave(H // G, dim=2)
    decay = torch.ones_like(beta, dtype=q.dtype) if log_decay is None else log_decay.to(q.dtype).exp()
    tokens = [part.unbind(1) for part in (q, k, v, decay, beta.to(q.dtype))]
    outs: list[Tensor] = []
    states: list[Tensor] = []
    for index in range(len(starts) - 1):
        if initial_state is None:
            state = q.new_zeros(query.shape[0], H, D, V)
        else:
            state = initial_state.to(q.dtype) if cu_seqlens is None else initial_state[index, None].to(q.dtype)
        for token in range(starts[index], starts[index + 1]):
            read, state = _step(state, *(part[token] for part in tokens))
            outs.append((scale * read).to(value.dtype))
        states.append(state)
    out = torch.stack(outs, dim=1) if outs else torch.zeros_like(value)
    return DeltaRuleOutput(out=out, final_state=torch.cat(states))


def check_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor | None,
    beta: Tensor,
    *,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> list[int]:
    """Refuses arguments that the rule does not define and returns the offsets of the sequences, ``[0, T]`` if one.

    Raises:
        ValueError: a shape disagrees, or the offsets do not describe the tokens.
    """
    check_shape("query", query, ("B", "T", "G", "D"))
    B, T, G, D = query.shape
    check_shape("key", key, (B, T, G, D))
    check_shape("value", value, (B, T, "H", "V"))
    H, V = value.shape[2:]
    check_multiple("value heads", H, G)
    check_shape("beta", beta, (B, T, H))
    if log_decay is not None:
        check_shape("log_decay", log_decay, (B, T, H))
    starts = [0, T]
    if cu_seqlens is not None:
        check_shape("query (packed)", query, (1, T, G, D))
        starts = check_offsets("cu_seqlens", cu_seqlens, tokens=T)
    if initial_state is not None:
        check_shape("initial_state", initial_state, (B if cu_seqlens is None else len(starts) - 1, H, D, V))
    return starts


def _step(state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``S^T q`` after the write, and the state (B, H, D, V); q, k (B, H, D), v (B, H, V), the others (B, H)."""
    state = decay[..., None, None] * state
    error = v - (k.unsqueeze(-2) @ state).squeeze(-2)
    state = state + (beta.unsqueeze(-1) * k).unsqueeze(-1) * error.unsqueeze(-2)
    return (q.unsqueeze(-2) @ state).squeeze(-2), state
