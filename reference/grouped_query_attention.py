"""Grouped-query attention as a layer: projections, per-head norms, rotary embedding, output gate.

Legend: B batch, T tokens, R rotated channels.

Source: ``GroupedQueryAttention`` of d9d (``d9d.module.block.attention``); Ainslie et al., "GQA" (2023); the norms of
queries and keys are those of Qwen3, the gate that of Qiu et al., "Gated Attention for Large Language Models" (2025).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from reference.checks import require_divisible, require_floats, require_parameters, require_positive, require_shape
from reference.flash_sdpa import flash_sdpa, require_key_mask
from reference.rms_norm import rms_norm
from reference.rope import RopeStyle, rope
from reference.sigmoid import sigmoid

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
    rope_style: RopeStyle | Literal["half", "interleaved"],
    rope_dim: int | None = None,
    enable_output_gate: bool = False,
    qk_norm_zero_centered: bool = False,
) -> Tensor:
    """Returns the layer's output.

    Definition:
        ``q, k, v = q_proj(x), k_proj(x), v_proj(x)``, split into heads; q and k pass ``rms_norm`` over head_dim if
        qk_norm_eps is given; ``rope`` turns their first rope_dim channels, the rest passes through; ``attention`` with
        ``scale = head_dim^-0.5``; times ``sigmoid(gate_proj(x))`` if gated; ``o_proj``. No projection has a bias.

    Conventions:
        As many key/value heads as query heads is multi-head attention, one is multi-query attention.

    Args:
        hidden_states: ``(B, T, hidden_size)``.
        attention_mask: None or a boolean key mask ``(B, T)``, True may be seen.
        position_embeddings: cosine and sine, each ``(B, T, rope_dim or head_dim)``.
        parameters: with ``HD = num_attention_heads * head_dim`` and ``GD = num_key_value_heads * head_dim``:
            ``q_proj.weight (HD, hidden_size)``, ``k_proj.weight`` and ``v_proj.weight (GD, hidden_size)``,
            ``o_proj.weight (hidden_size, HD)``; ``q_norm.weight`` and ``k_norm.weight (head_dim,)`` if qk_norm_eps is
            given; ``gate_proj.weight (HD, hidden_size)`` if gated.
        hidden_size: width of the layer.
        num_attention_heads: query heads.
        num_key_value_heads: key/value heads, a divisor of the query heads.
        head_dim: width of a head.
        qk_norm_eps: epsilon of the norms of q and k, or None for no norm.
        is_causal: whether later tokens are hidden.
        rope_style: which channels make a pair.
        rope_dim: even number of rotated channels, None for all.
        enable_output_gate: whether the output of attention is gated.
        qk_norm_zero_centered: whether the norms multiply by ``1 + weight``.

    Returns:
        ``(B, T, hidden_size)`` in the dtype of the hidden states.

    Raises:
        TypeError: a tensor has another dtype than the hidden states, or the mask is not boolean.
        ValueError: a shape, a parameter name, a number of heads or rope_dim is wrong.
    """
    num_heads, num_kv_heads = num_attention_heads, num_key_value_heads
    require_floats(hidden_states=hidden_states)
    require_shape("hidden_states", hidden_states, B=None, T=None, hidden_size=hidden_size)
    B, T, _ = hidden_states.shape
    require_divisible("num_attention_heads", num_heads, by=num_kv_heads, divisor="num_key_value_heads")
    if qk_norm_eps is not None:
        require_positive("qk_norm_eps", qk_norm_eps)
    R = head_dim if rope_dim is None else rope_dim
    if not 0 < R <= head_dim or R % 2:
        raise ValueError(f"rope_dim: got {R}, expected a positive even number up to head_dim={head_dim}")
    require_key_mask(attention_mask, B=B, S=T, device=hidden_states.device)
    cos, sin = position_embeddings
    require_floats(hidden_states=hidden_states, cos=cos, sin=sin)
    require_shape("cos", cos, B=B, T=T, R=R)
    require_shape("sin", sin, B=B, T=T, R=R)
    shapes = _shapes(hidden_size, num_heads, num_kv_heads, head_dim)
    if qk_norm_eps is not None:
        shapes |= {"q_norm.weight": (head_dim,), "k_norm.weight": (head_dim,)}
    if enable_output_gate:
        shapes["gate_proj.weight"] = (num_heads * head_dim, hidden_size)
    require_parameters(parameters, shapes, like=hidden_states)

    q = (hidden_states @ parameters["q_proj.weight"].mT).view(B, T, num_heads, head_dim)
    k = (hidden_states @ parameters["k_proj.weight"].mT).view(B, T, num_kv_heads, head_dim)
    v = (hidden_states @ parameters["v_proj.weight"].mT).view(B, T, num_kv_heads, head_dim)
    if qk_norm_eps is not None:
        q = rms_norm(q, parameters["q_norm.weight"], eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
        k = rms_norm(k, parameters["k_norm.weight"], eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
    q = torch.cat((rope(q[..., :R], cos, sin, style=rope_style), q[..., R:]), -1)
    k = torch.cat((rope(k[..., :R], cos, sin, style=rope_style), k[..., R:]), -1)
    out = flash_sdpa(q, k, v, attention_mask, {}, is_causal=is_causal, scale=head_dim**-0.5).flatten(2)
    if enable_output_gate:
        out = out * sigmoid(hidden_states @ parameters["gate_proj.weight"].mT)
    return out @ parameters["o_proj.weight"].mT


def _shapes(hidden_size: int, num_heads: int, num_kv_heads: int, head_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "q_proj.weight": (num_heads * head_dim, hidden_size),
        "k_proj.weight": (num_kv_heads * head_dim, hidden_size),
        "v_proj.weight": (num_kv_heads * head_dim, hidden_size),
        "o_proj.weight": (hidden_size, num_heads * head_dim),
    }
