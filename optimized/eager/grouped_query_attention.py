"""The grouped-query attention layer in plain torch: every operation's result is stored in the dtype of the inputs.

Letters: B batch, T tokens, H query heads, G key/value heads, D head width, R rotated channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.attention import attention
from optimized.eager.checks import check_key_mask, check_multiple, check_parameters, check_width
from optimized.eager.rms_norm import rms_norm
from optimized.eager.rope import rope

__all__ = ["grouped_query_attention"]


def grouped_query_attention(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    qk_norm_eps: float | None,
    is_causal: bool,
    rope_style: str,
    rope_dim: int | None = None,
    enable_output_gate: bool = False,
    qk_norm_zero_centered: bool = False,
) -> Tensor:
    """Computes projections, norms per head, RoPE, ``attention`` of scale ``D^-0.5``, the output gate and ``o_proj``.

    Args:
        hidden_states: shape (B, T, hidden_size).
        attention_mask: None, or a boolean key mask (B, T), True = may be seen.
        position_embeddings: cosines and sines, each (B, T, R).
        parameters: ``q_proj.weight`` (H D, hidden_size), ``k_proj.weight`` and ``v_proj.weight`` (G D, hidden_size),
            ``o_proj.weight`` (hidden_size, H D), ``gate_proj.weight`` (H D, hidden_size) if gated, ``q_norm.weight``
            and ``k_norm.weight`` (D,) if normed.
        hidden_size: width of input and output.
        num_attention_heads: H.
        num_key_value_heads: G, a divisor of H.
        head_dim: D.
        qk_norm_eps: eps of the norms of queries and keys; None leaves them out.
        is_causal: whether a token sees only tokens up to itself.
        rope_style: "half" or "interleaved".
        rope_dim: R, the first channels of a head that are rotated; None rotates all.
        enable_output_gate: whether the heads are multiplied by ``sigmoid(gate_proj(hidden_states))``.
        qk_norm_zero_centered: whether the norms' weights are stored as differences from 1.

    Returns:
        Shape (B, T, hidden_size), dtype of ``hidden_states``.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: a shape disagrees.

    Source: Ainslie et al., "GQA", section 2.2; the layer ``GroupedQueryAttention`` of d9d.
    """
    check_width("hidden_states", hidden_states, hidden_size)
    check_multiple("num_attention_heads", num_attention_heads, num_key_value_heads)
    check_key_mask("attention_mask", attention_mask, batch=hidden_states.shape[0], tokens=hidden_states.shape[1])
    H, G, D = num_attention_heads, num_key_value_heads, head_dim
    check_parameters(
        parameters,
        {
            "q_proj.weight": (H * D, hidden_size),
            "k_proj.weight": (G * D, hidden_size),
            "v_proj.weight": (G * D, hidden_size),
            "o_proj.weight": (hidden_size, H * D),
            **({} if qk_norm_eps is None else {"q_norm.weight": (D,), "k_norm.weight": (D,)}),
            **({"gate_proj.weight": (H * D, hidden_size)} if enable_output_gate else {}),
        },
    )

    def heads(name: str, *, is_normed: bool) -> Tensor:
        split = torch.unflatten(functional.linear(hidden_states, parameters[f"{name}_proj.weight"]), -1, (-1, head_dim))
        if is_normed and qk_norm_eps is not None:
            weight = parameters[f"{name}_norm.weight"]
            return rms_norm(split, weight, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
        return split

    cos, sin = position_embeddings
    rotated = head_dim if rope_dim is None else rope_dim
    out = attention(
        _rotate(heads("q", is_normed=True), cos, sin, style=rope_style, rotated=rotated),
        _rotate(heads("k", is_normed=True), cos, sin, style=rope_style, rotated=rotated),
        heads("v", is_normed=False),
        scale=head_dim**-0.5,
        window=(None, 0) if is_causal else (None, None),
        key_mask=attention_mask,
    ).out.flatten(2)
    if enable_output_gate:
        out = out * torch.sigmoid(functional.linear(hidden_states, parameters["gate_proj.weight"]))
    return functional.linear(out, parameters["o_proj.weight"])


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, style: str, rotated: int) -> Tensor:
    """Rotates the first channels of every head; the rest passes through."""
    if rotated == x.shape[-1]:
        return rope(x, cos, sin, style=style)
    return torch.cat((rope(x[..., :rotated], cos, sin, style=style), x[..., rotated:]), dim=-1)
