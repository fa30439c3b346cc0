"""The multi-head latent attention layer in plain torch: every operation's result is stored in the inputs' dtype.

Letters: B batch, T tokens, H heads, N content channels of a query or key, R rotated channels, V value head width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from optimized.eager.attention import attention
from optimized.eager.checks import check_key_mask, check_parameters, check_width
from optimized.eager.low_rank_projection import low_rank_projection
from optimized.eager.rms_norm import rms_norm
from optimized.eager.rope import rope

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
    rope_style: str,
) -> Tensor:
    """Computes attention whose keys and values come from one latent vector per token, in its expanded form.

    Args:
        hidden_states: shape (B, T, hidden_size).
        attention_mask: None, or a boolean key mask (B, T), True = may be seen.
        position_embeddings: cosines and sines, each (B, T, R).
        parameters: ``q_proj.weight`` (H (N + R), hidden_size), or with ``q_lora_rank`` the parameters of
            ``low_rank_projection`` under ``q_proj.``; ``kv_down_proj.weight`` (kv_lora_rank + R, hidden_size), latent
            first; ``kv_down_norm.weight`` (kv_lora_rank,); ``kv_up_proj.weight`` (H (N + V), kv_lora_rank), per head
            content then value; ``o_proj.weight`` (hidden_size, H V).
        hidden_size: width of input and output.
        num_attention_heads: H.
        qk_nope_head_dim: N.
        qk_rope_head_dim: R.
        v_head_dim: V.
        kv_lora_rank: width of the latent vector.
        q_lora_rank: bottleneck of the query projection, or None for a full one.
        qk_down_norm_eps: eps of the norms of the latent vector and of the query's bottleneck.
        is_causal: whether a token sees only tokens up to itself.
        rope_style: "half" or "interleaved".

    Returns:
        Shape (B, T, hidden_size), dtype of ``hidden_states``.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: a shape disagrees.

    Source: DeepSeek-AI, "DeepSeek-V2", section 2.1; the layer ``MultiHeadLatentAttention`` of d9d.
    """
    H, N, R, V = num_attention_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim
    check_width("hidden_states", hidden_states, hidden_size)
    projections: dict[str, tuple[int | str, ...]] = {
        "kv_down_proj.weight": (kv_lora_rank + R, hidden_size),
        "kv_down_norm.weight": (kv_lora_rank,),
        "kv_up_proj.weight": (H * (N + V), kv_lora_rank),
        "o_proj.weight": (hidden_size, H * V),
    }
    if q_lora_rank is None:
        projections["q_proj.weight"] = (H * (N + R), hidden_size)
    else:
        projections["q_proj.down_proj.weight"] = (q_lora_rank, hidden_size)
        projections["q_proj.norm.weight"] = (q_lora_rank,)
        projections["q_proj.up_proj.weight"] = (H * (N + R), q_lora_rank)
    check_parameters(parameters, projections)
    check_key_mask("attention_mask", attention_mask, batch=hidden_states.shape[0], tokens=hidden_states.shape[1])
    cos, sin = position_embeddings

    query = _query(hidden_states, parameters, width=H * (N + R), bottleneck=q_lora_rank, norm_eps=qk_down_norm_eps)
    query = torch.unflatten(query, -1, (H, N + R))
    compressed = functional.linear(hidden_states, parameters["kv_down_proj.weight"])
    latent, shared_key = torch.split(compressed, [kv_lora_rank, R], dim=-1)
    latent = rms_norm(latent, parameters["kv_down_norm.weight"], eps=qk_down_norm_eps)
    expanded = torch.unflatten(functional.linear(latent, parameters["kv_up_proj.weight"]), -1, (H, N + V))
    key_content, value = torch.split(expanded, [N, V], dim=-1)
    rotated_key = rope(shared_key.unsqueeze(2), cos, sin, style=rope_style).expand(-1, -1, H, -1)
    rotated_query = rope(query[..., N:], cos, sin, style=rope_style)
    out = attention(
        torch.cat((query[..., :N], rotated_query), dim=-1),
        torch.cat((key_content, rotated_key), dim=-1),
        value,
        scale=(N + R) ** -0.5,
        window=(None, 0) if is_causal else (None, None),
        key_mask=attention_mask,
    ).out
    return functional.linear(out.flatten(2), parameters["o_proj.weight"])


def _query(
    hidden_states: Tensor, parameters: Mapping[str, Tensor], *, width: int, bottleneck: int | None, norm_eps: float
) -> Tensor:
    if bottleneck is None:
        return functional.linear(hidden_states, parameters["q_proj.weight"])
    return low_rank_projection(
        hidden_states,
        {name: parameters[f"q_proj.{name}"] for name in ("down_proj.weight", "norm.weight", "up_proj.weight")},
        in_features=hidden_states.shape[-1],
        bottleneck=bottleneck,
        out_features=width,
        norm_eps=norm_eps,
    )
