"""Softmax attention with grouped heads, windows, key masks, additive bias and sinks, by its direct formula.

Legend: B batch, T query tokens, S key tokens, H query heads, G key/value heads, D query/key width, V value width.

Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1; grouped heads: Ainslie et al., "GQA" (2023);
windows: Beltagy et al., "Longformer" (2020), section 3.1; the learnable sink logit: gpt-oss (OpenAI, 2025), after Xiao
et al., "Efficient Streaming Language Models with Attention Sinks" (2023), section 3.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reference.checks import require_bool, require_broadcastable, require_divisible, require_floats, require_shape
from reference.masks import Window, require_window, visible_pairs

__all__ = ["AttentionOutput", "attention"]

_PAIRS = 2**23
"""Query-key pairs that are looked at together; more take turns, so that memory stays linear in the tokens."""


class AttentionOutput(NamedTuple):
    """What attention returns: ``out`` and the natural log of the softmax denominator, ``lse``."""

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
    """Returns the average of the values, weighted by a softmax of scaled dot products, and its log denominator.

    Definition:
        ``a_ts = scale * q_t . k_s + bias_ts`` over the visible keys s, ``Z_t = exp(sink) + sum_s exp(a_ts)``,
        ``p_ts = exp(a_ts) / Z_t``, ``out_t = sum_s p_ts v_s``, ``lse_t = ln Z_t``. Query head ``h`` reads key/value
        head ``h // (H/G)``.

    Conventions:
        A key is visible if the window (see ``masks.visible_pairs``: bottom-right alignment, causal is ``(None, 0)``),
        the key mask and a bias above ``-inf`` all allow it. The sink is not multiplied by the scale, has no value, and
        nothing is renormalised after it; no sinks and sinks of ``-inf`` are the same. A row that sees no key has
        ``out = 0``, ``lse = sink`` or ``-inf``, and its gradients are exactly 0 but for ``d lse / d sink = 1``.

    Numerics:
        All weights of a row are shifted by its largest logit. Hidden pairs have weight exactly 0; the inputs must be
        finite also where they are hidden, because ``0 * nan`` is ``nan``.

    Args:
        query: ``(B, T, H, D)``.
        key: ``(B, S, G, D)``, ``H % G == 0``.
        value: ``(B, S, G, V)``.
        scale: factor of the dot products.
        window: keys before and after the query's own position that it sees.
        sinks: ``(H,)``, one logit per query head.
        key_mask: ``(B, S)`` boolean, True may be seen.
        bias: broadcasts to ``(B, H, T, S)``, finite or ``-inf``; differentiable.

    Returns:
        ``AttentionOutput(out, lse)``: ``(B, T, H, V)`` and ``(B, H, T)``, in the dtype of query.

    Raises:
        TypeError: an argument is no tensor of the dtype of query, the key mask is not boolean, or the window no pair.
        ValueError: shapes or devices disagree, H is no multiple of G, or the window is negative.
    """
    _check(query, key, value, window=window, sinks=sinks, key_mask=key_mask, bias=bias)
    B, T, H, _ = query.shape
    S, G = key.shape[1:3]
    keys = key.repeat_interleave(H // G, 2)
    values = value.repeat_interleave(H // G, 2)

    def of(rows: slice) -> AttentionOutput:
        return _of_rows(
            query, keys, values, rows, scale=scale, window=window, sinks=sinks, key_mask=key_mask, bias=bias
        )

    block = max(1, _PAIRS // max(1, B * H * S))
    if block >= T:
        return of(slice(0, T))
    parts = [
        checkpoint(of, slice(start, min(start + block, T)), use_reentrant=False, preserve_rng_state=False)
        for start in range(0, T, block)
    ]
    return AttentionOutput(torch.cat([part.out for part in parts], 1), torch.cat([part.lse for part in parts], 2))


def _of_rows(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: slice,
    *,
    scale: float,
    window: Window,
    sinks: Tensor | None,
    key_mask: Tensor | None,
    bias: Tensor | None,
) -> AttentionOutput:
    """The definition for some of the query tokens; keys and values have H heads here."""
    (T, H), S = query.shape[1:3], keys.shape[1]
    logits = scale * torch.einsum("bthd,bshd->bhts", query[:, rows], keys)
    if bias is not None:
        logits = logits + (bias[..., rows, :] if bias.dim() > 1 and bias.shape[-2] > 1 else bias)
    visible = visible_pairs(T, S, window=window, device=query.device, rows=rows)
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    logits = logits.masked_fill(~visible, -torch.inf)

    sink = query.new_full((H,), -torch.inf) if sinks is None else sinks
    logits = torch.cat((logits, sink[None, :, None, None].expand(*logits.shape[:-1], 1)), -1)
    largest = logits.detach().amax(-1, keepdim=True)
    empty = largest == -torch.inf
    shift = largest.masked_fill(empty, 0)
    weights = (logits - shift).exp()
    denominator = weights.sum(-1, keepdim=True).masked_fill(empty, 1)
    probabilities = weights[..., :S] / denominator
    out = torch.einsum("bhts,bshv->bthv", probabilities, values)
    lse = (shift + denominator.log()).masked_fill(empty, -torch.inf)
    return AttentionOutput(out, lse.squeeze(-1))


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window,
    sinks: Tensor | None,
    key_mask: Tensor | None,
    bias: Tensor | None,
) -> None:
    require_floats(query=query, key=key, value=value)
    require_shape("query", query, B=None, T=None, H=None, D=None)
    B, T, H, D = query.shape
    require_shape("key", key, B=B, S=None, G=None, D=D)
    S, G = key.shape[1:3]
    require_shape("value", value, B=B, S=S, G=G, V=None)
    require_divisible("query", H, by=G, divisor="key")
    require_window("window", window)
    if sinks is not None:
        require_floats(query=query, sinks=sinks)
        require_shape("sinks", sinks, H=H)
    if key_mask is not None:
        require_bool("key_mask", key_mask, device=query.device)
        require_shape("key_mask", key_mask, B=B, S=S)
    if bias is not None:
        require_floats(query=query, bias=bias)
        require_broadcastable("bias", bias, B=B, H=H, T=T, S=S)
