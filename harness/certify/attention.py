"""Softmax attention in balls, written row by row from its definition and not from `reference/`.

Every function has the call of the operation with arrays of Balls for tensors.
Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.
"""

from collections.abc import Sequence

import numpy as np

from harness.certify.balls import Array, Ball, exp, filled, log, normaliser

__all__ = ["attention", "varlen_attention"]

Window = tuple[int | None, int | None]


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    scale: float | Ball,
    window: Window = (None, None),
    sinks: Array | None = None,
    key_mask: Array | None = None,
    bias: Array | None = None,
) -> dict[str, Array]:
    """Returns out (B, T, H, V) and lse (B, H, T).

    A hidden key takes no part in any sum, and a row without visible keys depends on nothing but its sink; gradients
    that are zero for this reason come out as exact zeros.
    """
    B, T, H, _ = query.shape
    S, G, V = value.shape[1:]
    out, lse = filled((B, T, H, V)), filled((B, H, T), -np.inf)
    added = None if bias is None else np.broadcast_to(bias, (B, H, T, S))
    for batch, row, head in np.ndindex(B, T, H):
        shared = head // (H // G)
        visible = [
            index
            for index in range(S)
            if _in_window(row + S - T, index, window)
            and (key_mask is None or key_mask[batch, index])
            and (added is None or added[batch, head, row, index].value.is_finite())
        ]
        logits = (key[batch, visible, shared] @ query[batch, row, head]) * scale
        if added is not None:
            logits = logits + added[batch, head, row, visible]
        sink: Ball | None = None if sinks is None else sinks.item(head)
        _row(out[batch, row, head], lse[batch, head], row, logits, value[batch, visible, shared], sink)
    return {"out": out, "lse": lse}


def _in_window(position: int, index: int, window: Window) -> bool:
    left, right = window
    return (left is None or index >= position - left) and (right is None or index <= position + right)


def _row(out: Array, lse: Array, row: int, logits: Array, values: Array, sink: Ball | None) -> None:
    """Fills one row; the shift is a constant that cancels and keeps the partial derivatives in range of a double."""
    if len(logits) == 0:
        if sink is not None:
            lse[row] = sink
        return
    shift = max(float(logit.value.mid()) for logit in (logits if sink is None else [*logits, sink]))
    weights = exp(logits - shift)
    denominator = weights.sum() + (0 if sink is None else exp(sink - shift))
    out[:] = (weights @ values) / normaliser(denominator)
    lse[row] = log(denominator) + shift


def varlen_attention(
    query: Array,
    key: Array,
    value: Array,
    cu_seqlens_q: Sequence[int],
    cu_seqlens_k: Sequence[int],
    *,
    scale: float | Ball,
    window: Window = (None, None),
    sinks: Array | None = None,
) -> dict[str, Array]:
    """Returns out (tokens, H, V) and lse (H, tokens) of packed sequences, each an attention of its own."""
    tokens, H, _ = query.shape
    out, lse = filled((tokens, H, value.shape[-1])), filled((H, tokens))
    for index in range(len(cu_seqlens_q) - 1):
        rows = slice(cu_seqlens_q[index], cu_seqlens_q[index + 1])
        keys = slice(cu_seqlens_k[index], cu_seqlens_k[index + 1])
        part = attention(query[None, rows], key[None, keys], value[None, keys], scale=scale, window=window, sinks=sinks)
        out[rows], lse[:, rows] = part["out"][0], part["lse"][0]
    return {"out": out, "lse": lse}
