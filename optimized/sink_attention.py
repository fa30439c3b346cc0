"""``attention`` on torch's ``scaled_dot_product_attention``, with sinks and gradients, on any device and in any dtype.

torch has no sinks. A sink is one more key, whose key and value are 0 and whose logit the additive mask gives: it enters
the denominator alone, and the gradient of the mask is that of the sinks. It is the first key, because queries are
aligned with the last one.

16-bit inputs are widened first, nothing is rounded on the way and results and gradients are rounded once: torch's fused
kernels for the CPU add 16-bit gradients of keys and values up in 16 bits. The backend is torch's decomposition into
matrix products, with the whole matrix of logits in memory; in float32 that is the one backend whose result for a row
without visible keys, 0, and whose gradients do not depend on torch's choice.

Letters: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key head width, V value head
width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.arithmetic import widened
from optimized.eager.attention import visible_keys
from optimized.eager.checks import Window, check_attention
from optimized.torch_sdpa import SdpaOutput, math_attention

__all__ = ["sink_attention"]


def sink_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: Window = (None, None),
    sinks: Tensor | None = None,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> SdpaOutput:
    """Computes ``softmax(scale * q k^T + bias) v`` with sinks, in float32 or float64, and rounds once.

    Args:
        query: shape (B, T, H, D).
        key: shape (B, S, G, D), H a multiple of G.
        value: shape (B, S, G, V).
        scale: factor of the logits.
        window: ``(left, right)``, as in ``attention``.
        sinks: shape (H,); a logit per query head that enters the denominator and has no value.
        key_mask: shape (B, S), boolean; what stands in a key that no query may see has no influence, NaN included.
        bias: broadcastable to (B, H, T, S), added to the scaled logits.

    Returns:
        ``out`` (B, T, H, V) in the dtype of ``query``, and None in place of the log of the denominator. A row that sees
        no key has out 0.

    Raises:
        TypeError: the key mask is not boolean.
        ValueError: a shape disagrees.

    Source: torch.nn.functional.scaled_dot_product_attention; sinks as in gpt-oss.
    """
    check_attention(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    wide_query, wide_key, wide_value = widened(query), widened(key), widened(value)
    if key_mask is not None:
        hidden = ~key_mask[:, :, None, None]
        wide_key, wide_value = wide_key.masked_fill(hidden, 0.0), wide_value.masked_fill(hidden, 0.0)
    if sinks is not None:
        bias = _bias_with_sinks(wide_query, key, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
        wide_key, wide_value = (functional.pad(x, (0, 0, 0, 0, 1, 0)) for x in (wide_key, wide_value))
        window, key_mask = (None, None), None
    out = math_attention(wide_query, wide_key, wide_value, scale=scale, window=window, key_mask=key_mask, bias=bias).out
    return SdpaOutput(out=out.to(query.dtype))


def _bias_with_sinks(
    query: Tensor, key: Tensor, *, window: Window, sinks: Tensor, key_mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Returns what is added to the logits of the sink and of all keys, (B, H, T, 1 + S)."""
    B, T, H, _ = query.shape
    added = query.new_zeros(()) if bias is None else bias.to(query.dtype)
    visible = visible_keys(query, key, window=window, key_mask=key_mask)
    if visible is not None:
        added = torch.where(visible, added, -math.inf)
    sink = sinks.to(query.dtype)[None, :, None, None].expand(B, H, T, 1)
    return torch.cat((sink, added.expand(B, H, T, key.shape[1])), dim=-1)
