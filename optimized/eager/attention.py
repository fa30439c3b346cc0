"""Softmax attention in plain torch, with the whole matrix of logits in memory.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optimized.eager.arithmetic import widened
from optimized.eager.checks import Window, check_attention

__all__ = ["AttentionOutput", "attention", "attention_stored", "supports_stored", "visible_keys"]


class AttentionOutput(NamedTuple):
    """Result (B, T, H, V) and natural log of the softmax denominator (B, H, T)."""

    out: Tensor
    lse: Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> AttentionOutput:
    """Computes ``softmax(scale * q k^T + bias) v`` over the visible keys in float32 and rounds once.

    Args:
        query: shape (B, T, H, D).
        key: shape (B, S, G, D), H a multiple of G; query head h reads key/value head ``h // (H / G)``.
        value: shape (B, S, G, V).
        scale: factor of the logits.
        window: ``(left, right)``; query t sits at key position ``t + S - T`` and sees from ``left`` keys before it to
            ``right`` keys after it; None is unbounded, causal is ``(None, 0)``.
        sinks: shape (H,); a logit per query head that enters the denominator and has no value.
        key_mask: shape (B, S), boolean; True may be seen.
        bias: broadcastable to (B, H, T, S), added to the scaled logits; -inf hides.

    Returns:
        ``out`` (B, T, H, V) in the dtype of ``query``; ``lse`` (B, H, T), float32 for 16-bit inputs. A row that sees
        no key has out 0 and lse -inf (the sink, if there is one). Gradients flow through both; those of hidden keys
        and rows are exactly 0.

    Raises:
        TypeError: the key mask is not boolean.
        ValueError: a shape disagrees.

    Source: Vaswani et al., "Attention Is All You Need", section 3.2.1; sinks as in gpt-oss.
    """
    out, lse = attention_stored(
        widened(query), widened(key), widened(value), scale=scale, window=window, sinks=sinks, key_mask=key_mask,
        bias=None if bias is None else widened(bias),
    )  # fmt: skip
    return AttentionOutput(out=out.to(query.dtype), lse=lse)


def attention_stored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> AttentionOutput:
    """Computes what ``attention`` does, with logits and weights stored in the dtype of ``query``.

    The scale is applied inside the matrix product, so that float16 logits overflow only if the scaled ones do; the
    softmax itself is computed in float32. Arguments, results and errors are those of ``attention``.

    Source: the order of roundings is that of transformers' ``eager_attention_forward``.
    """
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    H, G = query.shape[2], key.shape[2]
    visible = visible_keys(query, key, window=window, key_mask=key_mask)
    if visible is not None:
        # What stands in a key that nobody sees must not reach a product: 0 * NaN is NaN.
        unseen = ~visible.any(dim=-2).squeeze(1)[..., None, None]
        key, value = key.masked_fill(unseen, 0.0), value.masked_fill(unseen, 0.0)
    key = key.repeat_interleave(H // G, dim=2).transpose(1, 2)
    value = value.repeat_interleave(H // G, dim=2).transpose(1, 2)
    logits = _scaled_logits(query.transpose(1, 2), key, scale=scale)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if visible is not None:
        logits = logits.masked_fill(~visible, -math.inf)
    weights, lse = _softmax(widened(logits), sinks=sinks)
    return AttentionOutput(out=(weights.to(value.dtype) @ value).transpose(1, 2), lse=lse)


def supports_stored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> str | None:
    """Returns None, or a sentence that says why ``attention_stored`` refuses: logits that may leave the dtype's range.

    The bound is that of Cauchy and Schwarz, so that a refused call might still have been computed.
    """
    del value, window, sinks, key_mask
    if 0 in (*query.shape, *key.shape):
        return None
    largest = abs(scale) * float(widened(query).norm(dim=-1).max() * widened(key).norm(dim=-1).max())
    if bias is not None:
        largest += float(widened(bias).masked_fill(bias == -math.inf, 0.0).abs().max())
    limit = torch.finfo(query.dtype).max
    if largest > limit:
        return f"query, key: got logits of up to {largest:.3g}, expected at most {limit:.3g}, what {query.dtype} stores"
    return None


def visible_keys(query: Tensor, key: Tensor, *, window: Window, key_mask: Tensor | None) -> Tensor | None:
    """Returns which key each query may see, ``(B or 1, 1, T, S)`` boolean, or None if every key is visible."""
    left, right = window
    visible = None if key_mask is None else key_mask[:, None, None, :]
    if left is None and right is None:
        return visible if visible is None else visible.expand(-1, -1, query.shape[1], -1)
    T, S = query.shape[1], key.shape[1]
    distance = torch.arange(S, device=key.device) - torch.arange(S - T, S, device=key.device)[:, None]
    inside = torch.ones(T, S, dtype=torch.bool, device=key.device)
    if left is not None:
        inside &= distance >= -left
    if right is not None:
        inside &= distance <= right
    return inside[None, None] if visible is None else inside & visible


def _scaled_logits(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """Returns ``scale * q k^T`` for (B, H, T, D) and (B, H, S, D), rounded once."""
    product = torch.baddbmm(
        query.new_zeros(1, 1, 1),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        beta=0,
        alpha=scale,
    )
    return torch.unflatten(product, 0, query.shape[:2])


def _softmax(logits: Tensor, *, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns softmax weights and log of the denominator; the sink is one more key, of logit -inf if there is none."""
    B, H, T, _ = logits.shape
    sink = logits.new_full((H,), -math.inf) if sinks is None else sinks.to(logits.dtype)
    logits = torch.cat((logits, sink[None, :, None, None].expand(B, H, T, 1)), dim=-1)
    peak = logits.detach().amax(dim=-1, keepdim=True)
    is_empty = peak == -math.inf
    exponentials = (logits - peak.masked_fill(is_empty, 0.0)).exp()
    denominator = exponentials.sum(dim=-1, keepdim=True).masked_fill(is_empty, 1.0)
    lse = (peak.masked_fill(is_empty, 0.0) + denominator.log()).masked_fill(is_empty, -math.inf)
    return exponentials[..., :-1] / denominator, lse.squeeze(-1)
