"""Multi-head latent attention as a layer, in its expanded form.

Legend: B batch, T tokens.

Source: DeepSeek-AI, "DeepSeek-V2" (2024), sections 2.1.2 and 2.1.3, equations 37 to 47;
``MultiHeadLatentAttention`` of d9d (``d9d.module.block.attention``).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from reference.checks import require_floats, require_parameters, require_positive, require_shape
from reference.flash_sdpa import flash_sdpa, require_key_mask
from reference.low_rank_projection import low_rank_projection
from reference.rms_norm import rms_norm
from reference.rope import RopeStyle, rope

__all__ = ["multi_head_latent_attention"]


def multi_head_latent_attention(
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    hidden_size: int,
    num_attention_heads: int,
    qk_nope_head_dim: int,
    qk_rope_head_dim: int,
    v_head_dim: int,
    kv_lora_rank: int,
    q_lora_rank: int | None,
    qk_down_norm_eps: float,
    is_causal: bool,
    rope_style: RopeStyle | Literal["half", "interleaved"],
) -> Tensor:
    """Returns the layer's output.

    Definition:
        Queries: ``q_proj(x)``, or ``low_rank_projection`` through q_lora_rank, per head ``[nope | rope]``. Keys and
        values: ``kv_down_proj(x) = [latent | rope key]``, the rope key shared by all heads;
        ``kv_up_proj(rms_norm(latent))`` per head ``[nope | value]``. ``rope`` turns the rope parts only. Keys are
        ``[nope | rope]``; ``attention`` with ``scale = (nope + rope)^-0.5``; ``o_proj``. No projection has a bias.

    Conventions:
        The latent comes first in ``kv_down_proj``. v_head_dim may be smaller or larger than ``nope + rope``.

    Args:
        hidden_states: ``(B, T, hidden_size)``.
        attention_mask: None or a boolean key mask ``(B, T)``, True may be seen.
        position_embeddings: cosine and sine, each ``(B, T, qk_rope_head_dim)``.
        parameters: with ``H = num_attention_heads``: ``q_proj.weight (H * (nope + rope), hidden_size)``, or, with
            q_lora_rank, ``q_proj.down_proj.weight``, ``q_proj.norm.weight`` and ``q_proj.up_proj.weight``;
            ``kv_down_proj.weight (kv_lora_rank + rope, hidden_size)``, ``kv_down_norm.weight (kv_lora_rank,)``,
            ``kv_up_proj.weight (H * (nope + v_head_dim), kv_lora_rank)``,
            ``o_proj.weight (hidden_size, H * v_head_dim)``.
        hidden_size: width of the layer.
        num_attention_heads: heads.
        qk_nope_head_dim: query/key channels per head that are not rotated.
        qk_rope_head_dim: rotated query/key channels per head, an even number.
        v_head_dim: value channels per head.
        kv_lora_rank: width of the latent.
        q_lora_rank: bottleneck of the queries, None for a plain projection.
        qk_down_norm_eps: epsilon of both norms.
        is_causal: whether later tokens are hidden.
        rope_style: which channels make a pair.

    Returns:
        ``(B, T, hidden_size)`` in the dtype of the hidden states.

    Raises:
        TypeError: a tensor has another dtype than the hidden states, or the mask is not boolean.
        ValueError: a shape, a parameter name or qk_rope_head_dim is wrong.
    """
    num_heads, nope, rotated = num_attention_heads, qk_nope_head_dim, qk_rope_head_dim
    require_floats(hidden_states=hidden_states)
    require_shape("hidden_states", hidden_states, B=None, T=None, hidden_size=hidden_size)
    B, T, _ = hidden_states.shape
    require_positive("qk_down_norm_eps", qk_down_norm_eps)
    if rotated <= 0 or rotated % 2:
        raise ValueError(f"qk_rope_head_dim: got {rotated}, expected a positive even number")
    require_key_mask(attention_mask, B=B, S=T, device=hidden_states.device)
    cos, sin = position_embeddings
    require_floats(hidden_states=hidden_states, cos=cos, sin=sin)
    require_shape("cos", cos, B=B, T=T, R=rotated)
    require_shape("sin", sin, B=B, T=T, R=rotated)
    q_features = num_heads * (nope + rotated)
    shapes = {
        **_query_shapes(hidden_size, q_lora_rank, q_features),
        "kv_down_proj.weight": (kv_lora_rank + rotated, hidden_size),
        "kv_down_norm.weight": (kv_lora_rank,),
        "kv_up_proj.weight": (num_heads * (nope + v_head_dim), kv_lora_rank),
        "o_proj.weight": (hidden_size, num_heads * v_head_dim),
    }
    require_parameters(parameters, shapes, like=hidden_states)

    q = _queries(hidden_states, parameters, rank=q_lora_rank, eps=qk_down_norm_eps)
    q = q.view(B, T, num_heads, nope + rotated)
    down = hidden_states @ parameters["kv_down_proj.weight"].mT
    latent = rms_norm(down[..., :kv_lora_rank], parameters["kv_down_norm.weight"], eps=qk_down_norm_eps)
    kv = (latent @ parameters["kv_up_proj.weight"].mT).view(B, T, num_heads, nope + v_head_dim)
    k_nope, v = kv[..., :nope], kv[..., nope:]

    q_rope = rope(q[..., nope:], cos, sin, style=rope_style)
    k_rope = rope(down[..., None, kv_lora_rank:], cos, sin, style=rope_style).expand(B, T, num_heads, rotated)
    q, k = torch.cat((q[..., :nope], q_rope), -1), torch.cat((k_nope, k_rope), -1)
    out = flash_sdpa(q, k, v, attention_mask, {}, is_causal=is_causal, scale=(nope + rotated) ** -0.5)
    return out.flatten(2) @ parameters["o_proj.weight"].mT


def _query_shapes(hidden_size: int, rank: int | None, q_features: int) -> dict[str, tuple[int, ...]]:
    if rank is None:
        return {"q_proj.weight": (q_features, hidden_size)}
    return {
        "q_proj.down_proj.weight": (rank, hidden_size),
        "q_proj.norm.weight": (rank,),
        "q_proj.up_proj.weight": (q_features, rank),
    }


def _queries(
    hidden_states: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    rank: int | None,
    eps: float,
) -> Tensor:
    if rank is None:
        return hidden_states @ parameters["q_proj.weight"].mT
    up = parameters["q_proj.up_proj.weight"]
    own = {name: parameters[f"q_proj.{name}"] for name in ("down_proj.weight", "norm.weight", "up_proj.weight")}
    return low_rank_projection(
        hidden_states, own, in_features=hidden_states.shape[-1], bottleneck=rank, out_features=up.shape[0], norm_eps=eps
    )
